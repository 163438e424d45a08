"""Precomputed regions are refused by other detectors' models and stages."""

import copy
import json
from pathlib import Path

import datasets
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from transformers_groma import GromaForRegionProposal
from transformers_groma.data.mixtures import load_mixture
from transformers_groma.training import conversation_stage
from transformers_groma.training.conversation_stage import ConversationArguments, load_conversations
from transformers_groma.training.precompute_regions import precompute_regions
from transformers_groma.training.proposal_notes import (
    NOTES_NAME,
    check_claim,
    check_proposals,
    claim_folder,
    image_processor_sha256,
)
from transformers_groma.training.trainer import GromaSFTTrainer, GromaTrainer

from .precomputed import image_file, image_row, write_files
from .rows import (
    command_line,
    run_alignment,
    run_sft,
    save_training_model,
    training_model,
    training_processor,
    write_conversations,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Datasets are cached with the test's own files."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_proposals_belong_to_one_detector(tmp_path, model, processor):
    source, target = write_files(tmp_path / "data", [image_row("0", image_file(0))]), tmp_path / "regions"
    precompute_regions(model, processor.image_processor, source, target, device="cpu")
    other = GromaForRegionProposal.from_pretrained(model.name_or_path)
    check_proposals(other, target)
    settings = other.config.proposer_config
    settings.coco_score_weight = 0.5
    with pytest.raises(ValueError, match="another detector .*other weights or settings"):
        check_proposals(other, target)
    settings.coco_score_weight = 0.4
    with torch.no_grad():
        other.region_proposer.enc_output.bias[0] += 1e-3
    with pytest.raises(ValueError, match="regions holds proposals of another detector"):
        precompute_regions(other, processor.image_processor, source, target, device="cpu")
    with pytest.raises(FileNotFoundError, match="says whose proposals"):
        check_proposals(model, source)
    # The language model has no say.
    with torch.no_grad():
        model.lm_head.weight[0] += 1
    check_proposals(model, target)


def test_a_model_must_find_all_that_it_could_choose(tmp_path, model, processor):
    source, target = write_files(tmp_path / "data", [image_row("0", image_file(0))]), tmp_path / "regions"
    arguments = (model, processor.image_processor, source, target)
    model.config.box_score_threshold = 0.2
    with pytest.raises(ValueError, match=r"`score_threshold` .*0\.2, got 0\.3"):
        precompute_regions(*arguments, score_threshold=0.3, device="cpu")
    precompute_regions(*arguments, score_threshold=0.1, device="cpu")
    with pytest.raises(ValueError, match=r"above 0\.1, but `score_threshold` is 0\.2.*Pass 0\.1"):
        precompute_regions(*arguments, device="cpu")
    check_proposals(model, target)
    model.config.box_score_threshold = 0.05
    with pytest.raises(ValueError, match=r"`box_score_threshold` is 0\.05"):
        check_proposals(model, target)


def test_a_mixture_has_precomputed_regions_everywhere_or_nowhere(tmp_path, model, processor):
    source, target = write_files(tmp_path / "data", [image_row("0", image_file(0))]), tmp_path / "regions"
    precompute_regions(model, processor.image_processor, source, target, device="cpu")
    with pytest.raises(ValueError, match="precompute-regions` on all of them or on none"):
        load_mixture([str(source), str(target)], "conversation")
    assert len(load_mixture([str(target), f"{target}:1"], "conversation")) == 2


def test_stages_check_whose_regions_they_train_on(tmp_path, monkeypatch):
    """Also in bfloat16, in which the detector stays float32; of another model only with the detector that was used."""
    base = save_training_model(tmp_path / "base")
    other = save_training_model(tmp_path / "other", seed=1)
    data, regions = write_conversations(tmp_path / "data", 4), tmp_path / "regions"
    write_conversations(data, 2, "validation")
    detector = GromaForRegionProposal.from_pretrained(base)
    for split in ("train", "validation"):
        precompute_regions(
            detector, training_processor().image_processor, data, regions, split=split, num_workers=1, device="cpu"
        )
    output = tmp_path / "output"
    trainer = run_sft(command_line(base, regions, output, max_steps=1, use_peft=True, dtype="bfloat16"))
    assert trainer.state.global_step == 1

    class Started(Exception):
        pass

    def start(*_, **__):
        raise Started

    monkeypatch.setattr(GromaTrainer, "train", start)
    monkeypatch.setattr(GromaSFTTrainer, "train", start)
    with pytest.raises(Started):
        run_alignment(command_line(base, regions, output, eval_datasets=regions))
    with pytest.raises(Started):
        run_alignment(command_line(other, regions, output, detector=base))
    for run in (run_alignment, run_sft):
        with pytest.raises(ValueError, match="regions holds proposals of another detector"):
            run(command_line(other, regions, output))
    with pytest.raises(ValueError, match="regions holds proposals of another detector"):
        run_alignment(command_line(other, data, output, eval_datasets=regions))
    monkeypatch.setenv("LOCAL_RANK", "1")  # may have no weights to compare
    load_conversations(ConversationArguments(train_datasets=[str(regions)]), training_model(seed=1))
    monkeypatch.delenv("LOCAL_RANK")
    (regions / NOTES_NAME).unlink()
    with pytest.raises(FileNotFoundError, match="says whose proposals the folder holds"):
        run_alignment(command_line(base, regions / "train.parquet", output))


@pytest.mark.parametrize("part", ["vision_tower", "region_proposer"])
def test_precomputed_regions_are_not_for_a_detector_that_learns(tmp_path, monkeypatch, model, processor, part):
    """Neither for training nor for evaluation, and every process says so."""
    data, regions = write_files(tmp_path / "data", [image_row("0", image_file(0))]), tmp_path / "regions"
    precompute_regions(model, processor.image_processor, data, regions, device="cpu")
    parts = ["region_encoder", part]
    load_conversations(ConversationArguments(train_datasets=[str(data)], trainable_parts=parts), model)
    for rank, mixtures in (
        ("0", {"train_datasets": [str(regions)]}),
        ("1", {"train_datasets": [str(data)], "eval_datasets": [f"{regions}@train"]}),
    ):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(ValueError, match=f"`trainable_parts` has '{part}', but .*regions.* holds precomputed"):
            load_conversations(ConversationArguments(**mixtures, trainable_parts=parts), model)


def test_the_hub_says_whose_regions_it_holds(tmp_path, monkeypatch):
    notes = tmp_path / "snapshot" / NOTES_NAME
    monkeypatch.setattr(conversation_stage, "hf_hub_download", lambda *_, **__: str(notes))
    assert conversation_stage._folder_of_notes("org/vg-regions") == notes.parent

    def missing(*_, **__):
        raise LocalEntryNotFoundError("nothing there")

    monkeypatch.setattr(conversation_stage, "hf_hub_download", missing)
    with pytest.raises(FileNotFoundError, match=f"org/vg-regions on the Hub .* no {NOTES_NAME}.*Upload the one"):
        conversation_stage._folder_of_notes("org/vg-regions")


def test_a_folder_is_claimed_once(tmp_path, model, processor):
    """Before anything else is in it, and for one detector, image processor and threshold."""
    image_processor, model = processor.image_processor, model.model
    model.config.box_score_threshold = 0.5
    claim = claim_folder(tmp_path, model, image_processor, 0.25)
    assert json.loads((tmp_path / NOTES_NAME).read_text()) == claim
    assert claim["score_threshold"] == 0.25 and claim["model"] == Path(model.name_or_path).name
    (tmp_path / "train.parquet").touch()
    assert claim_folder(tmp_path, model, image_processor, 0.25) == claim
    for name, value, message in (
        ("score_threshold", 0.3, r"with a score above 0\.25, but `score_threshold` is 0\.3.* Pass 0\.25"),
        ("detector_sha256", "0", "holds proposals of another detector"),
        ("image_processor_sha256", "0", "holds proposals of another image processor"),
    ):
        with pytest.raises(ValueError, match=message):
            check_claim(tmp_path, {**claim, name: value})
    with pytest.raises(ValueError, match=r"`score_threshold` is 0\.3"):
        claim_folder(tmp_path, model, image_processor, 0.3)
    (tmp_path / NOTES_NAME).unlink()
    with pytest.raises(ValueError, match=rf"holds files without a {NOTES_NAME} \(train\.parquet\)"):
        claim_folder(tmp_path, model, image_processor, 0.25)
    assert not (tmp_path / NOTES_NAME).exists()


def test_the_image_processor_counts_by_its_settings(processor):
    first, second = copy.deepcopy(processor.image_processor), copy.deepcopy(processor.image_processor)
    second.processor_class = "Other"
    assert image_processor_sha256(first) == image_processor_sha256(second)
    second.image_mean = [0.5, 0.5, 0.5]
    assert image_processor_sha256(first) != image_processor_sha256(second)
