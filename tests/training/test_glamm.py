"""`groma train glamm`: what learns, in full and with LoRA; batches by type; losses over a step; exact resume."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModelForImageTextToText

from transformers_groma import cli
from transformers_groma.data.columns import CONVERSATION_FEATURES, text_part
from transformers_groma.models.glamm.modeling_glamm import GlammForConditionalGeneration
from transformers_groma.training import glamm, glamm_trainer
from transformers_groma.training.glamm_collator import GlammCollator
from transformers_groma.training.glamm_data import joined, load_typed_parts
from transformers_groma.training.glamm_trainer import GlammTrainer

from .glamm_rows import (
    ROW_FEATURES,
    TYPES,
    glamm_command_line,
    glamm_history,
    glamm_processor,
    glamm_row,
    glamm_rows,
    learned,
    run_glamm,
    save_glamm,
    write_glamm_rows,
)
from .rows import losses, same_weights, save_training_model

STEPS = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
LORA = {"use_peft": True, "lora_r": 4}
VARIANTS = {"full": {}, "lora": LORA}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_glamm(tmp_path_factory.mktemp("glamm") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_glamm_rows(tmp_path_factory.mktemp("glamm") / "data", 12)


@pytest.fixture(scope="module")
def runs(base, data, tmp_path_factory) -> dict[str, GlammTrainer]:
    """Six steps at once, in full and with LoRA."""
    folder = tmp_path_factory.mktemp("glamm")
    settings = {**STEPS, "eval_datasets": data / "segmentation", "eval_strategy": "steps", "eval_steps": 3}
    return {
        name: run_glamm(glamm_command_line(base, data, folder / name, **settings, **changes))
        for name, changes in VARIANTS.items()
    }


def test_what_learns_in_full(runs, base):
    """By default region encoder, prompt projection, mask decoder and the language model with its embeddings."""
    before = GlammForConditionalGeneration.from_pretrained(base).state_dict()
    frozen = ("vision_tower", "multi_modal_projector", "grounding_encoder", "mask_decoder.prompt_encoder")
    changed = set()
    for name, weight in runs["full"].model.state_dict().items():
        is_frozen = any(name.startswith(f"model.{part}.") for part in frozen)
        assert (name in learned(runs["full"].model)) is not is_frozen, name
        if torch.equal(weight, before[name]):
            # Masks 1 to 3 are for clicks, and the quality of masks is not learned.
            assert is_frozen or ".mask_decoder." in name or ".layer_norm" in name or ".region_encoder." in name, name
        else:
            assert not is_frozen, name
            changed.add(name.removeprefix("model.").partition(".")[0])
    parts = {"region_encoder", "prompt_projection", "mask_decoder", "language_model", "lm_head"}
    assert changed == parts
    saved = GlammForConditionalGeneration.from_pretrained(runs["full"].args.output_dir)
    assert same_weights(saved, runs["full"].model)


def test_what_learns_with_lora(runs):
    """LoRA in query and value layers; embeddings, head, region encoder, projection and mask decoder in full."""
    names = learned(runs["lora"].model)
    lora = {name for name in names if "lora_" in name}
    assert len(lora) == 2 * 2 * 2  # two layers, queries and values, two matrices
    assert all(".language_model." in name and (".q_proj." in name or ".v_proj." in name) for name in lora)
    saved = {name.partition(".modules_to_save.")[0].removeprefix("base_model.model.") for name in names - lora}
    assert saved == {
        "lm_head",
        "model.language_model.embed_tokens",
        "model.mask_decoder.mask_decoder",
        "model.prompt_projection",
        "model.region_encoder",
    }


@pytest.mark.parametrize("load", ["peft", "auto"])
def test_the_adapter_loads_into_a_fresh_model(runs, base, load):
    """The same logits and masks to the last bit."""
    folder = runs["lora"].args.output_dir
    if load == "peft":
        loaded = PeftModel.from_pretrained(GlammForConditionalGeneration.from_pretrained(base), folder)
    else:
        loaded = AutoModelForImageTextToText.from_pretrained(folder)
    batch = GlammCollator(glamm_processor())([*glamm_rows("segmentation", 2)])
    with torch.no_grad():
        expected, actual = (model.eval()(**batch) for model in (runs["lora"].model, loaded))
        untrained = GlammForConditionalGeneration.from_pretrained(base)(**batch)
    assert torch.equal(actual.logits, expected.logits)
    assert all(map(torch.equal, actual.segment_logits, expected.segment_logits))
    assert not torch.equal(untrained.segment_logits[0], expected.segment_logits[0])


def test_tied_embeddings_stay_tied_with_lora(data, tmp_path):
    """PEFT would train a copy of the embeddings, and leave the head as it was."""
    base = save_glamm(tmp_path / "model", tie_word_embeddings=True)
    trainer = run_glamm(glamm_command_line(base, data, tmp_path / "out", max_steps=1, **LORA))
    model = trainer.model.base_model.model
    embedding, head = (each.modules_to_save["default"] for each in (model.get_input_embeddings(), model.lm_head))
    assert embedding.weight is head.weight and embedding.weight.requires_grad
    assert not torch.equal(embedding.weight, model.get_input_embeddings().original_module.weight)
    batch = GlammCollator(glamm_processor())([*glamm_rows("segmentation", 2)])
    merged = PeftModel.from_pretrained(GlammForConditionalGeneration.from_pretrained(base), tmp_path / "out")
    merged = merged.merge_and_unload().eval()
    assert merged.get_input_embeddings().weight is merged.get_output_embeddings().weight
    with torch.no_grad():
        assert_close(merged(**batch).logits, trainer.model.eval()(**batch).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_resume_is_exact(runs, base, data, tmp_path, variant, workers):
    whole = runs[variant]
    resumed = run_glamm(
        glamm_command_line(
            base,
            data,
            tmp_path,
            **STEPS,
            **VARIANTS[variant],
            eval_datasets=data / "segmentation",
            eval_strategy="steps",
            eval_steps=3,
            dataloader_num_workers=workers,
            resume_from_checkpoint=Path(whole.args.output_dir) / "checkpoint-3",
        )
    )
    assert glamm_history(resumed) == glamm_history(whole)
    assert len(glamm_history(whole)) == 6
    assert same_weights(resumed.model, whole.model)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("full", LORA, "it has all weights and no LoRA, and `use_peft` is true"),
        ("lora", {}, "it has LoRA, and `use_peft` is false"),
        ("lora", {**LORA, "lora_r": 8}, "its LoRA has the `r` 4, and this training has 8"),
        ("lora", {**LORA, "lora_alpha": 32}, "its LoRA has the `lora_alpha` 16, and this training has 32"),
        (
            "lora",
            {**LORA, "trainable_parts": ["language_model", "mask_decoder"]},
            r"its LoRA has the `modules_to_save` \['lm_head', .*'model.region_encoder'\], and this training has \['m",
        ),
    ],
)
def test_a_checkpoint_with_another_lora_is_refused(runs, base, data, tmp_path, name, changes, message):
    """Its weights would be left out, or count more or less than they did."""
    checkpoint = Path(runs[name].args.output_dir) / "checkpoint-3"
    with pytest.raises(ValueError, match=f"cannot go on from .*checkpoint-3: {message}.*another `output_dir`"):
        run_glamm(glamm_command_line(base, data, tmp_path, **STEPS, **changes, resume_from_checkpoint=checkpoint))


def test_losses_of_masks_are_logged_for_steps_that_have_some(runs):
    entries = glamm_history(runs["full"])
    with_masks = [entry for entry in entries if "bce_loss" in entry]
    assert 0 < len(with_masks) < len(entries)
    for entry in entries:
        expected = entry["ce_loss"] + 2 * entry.get("bce_loss", 0) + 0.5 * entry.get("dice_loss", 0)
        assert entry["loss"] == pytest.approx(expected, rel=1e-5)


def test_accumulated_batches_are_one_batch(base, data, tmp_path):
    """Rows have different numbers of words and masks, and still count alike."""
    settings = {"max_steps": 3, "optim": "sgd", "learning_rate": 0.1}
    settings |= {"caption_datasets": None, "region_datasets": None, "max_questions": 1}
    once = run_glamm(glamm_command_line(base, data, tmp_path / "1", **settings, per_device_train_batch_size=4))
    settings |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    pieces = run_glamm(glamm_command_line(base, data, tmp_path / "2", **settings))
    for actual, expected in zip(glamm_history(pieces), glamm_history(once), strict=True):
        assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    weights = pieces.model.state_dict()
    for name, weight in once.model.state_dict().items():
        assert_close(weights[name], weight, atol=1e-5, rtol=1e-4, msg=name)


def test_activation_checkpointing_changes_nothing(runs, base, data, tmp_path):
    assert runs["full"].args.activation_checkpointing
    plain = run_glamm(glamm_command_line(base, data, tmp_path, max_steps=6, activation_checkpointing=False))
    assert_close(losses(plain), losses(runs["full"]), atol=1e-5, rtol=0)


def test_all_parts_may_learn(base, data, tmp_path):
    """Also the encoders of a small model; gradients reach all of them in a step with masks and regions."""
    parts = list(glamm.GlammArguments().trainable_parts)
    parts += ["vision_tower", "projector", "grounding_encoder", "prompt_encoder"]
    before = GlammForConditionalGeneration.from_pretrained(base).state_dict()
    settings = {"max_steps": 1, "trainable_parts": parts, "caption_datasets": None, "region_datasets": None}
    trainer = run_glamm(glamm_command_line(base, data, tmp_path, **settings))
    assert learned(trainer.model) == {name for name, _ in trainer.model.named_parameters()}
    for part in ("vision_tower", "multi_modal_projector", "grounding_encoder", "mask_decoder.prompt_encoder"):
        weights = {n: w for n, w in trainer.model.state_dict().items() if n.startswith(f"model.{part}.")}
        assert any(not torch.equal(weight, before[name]) for name, weight in weights.items()), part


def test_evaluation_is_teacher_forced(runs, data):
    """Loss and IoU of the evaluation rows, whatever they are batched with."""
    trainer = runs["full"]
    (*_, entry) = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    rows = [*glamm_rows("segmentation", 4)]
    batch = GlammCollator(glamm_processor())(rows)
    with torch.no_grad():
        output = trainer.model.eval()(**batch)
    assert entry["eval_loss"] == pytest.approx(output.loss.item(), rel=1e-5)
    assert entry["eval_ce"] == pytest.approx(output.ce_loss.item(), rel=1e-5)
    assert entry["eval_masks"] == 12
    ious, overlap, total = [], 0, 0
    for row, logits, masks in zip(rows, output.segment_logits, batch["mask_labels"], strict=True):
        width, height = row["image"].size
        found = torch.from_numpy(trainer.model.upright_masks(logits, height, width))
        for one, other in zip(found, masks, strict=True):
            ious.append(((one & other).sum() / (one | other).sum()).item())
            overlap, total = overlap + (one & other).sum().item(), total + (one | other).sum().item()
    assert entry["eval_giou"] == pytest.approx(sum(ious) / len(ious), abs=1e-6)
    assert entry["eval_ciou"] == pytest.approx(overlap / total, abs=1e-6)
    alone = trainer.evaluate(glamm_rows("segmentation", 4).select([0]))
    assert alone["eval_masks"] == 3


def test_evaluation_without_masks(runs):
    metrics = runs["full"].evaluate(glamm_rows("caption", 3))
    assert metrics["eval_masks"] == 0 and metrics["eval_ce"] > 0
    assert "eval_giou" not in metrics


def test_card(runs, data):
    card = (Path(runs["full"].args.output_dir) / "README.md").read_text()
    assert "A [GLaMM](https://arxiv.org/abs/2311.03356) model" in card and "- glamm\n" in card
    assert "| shares of steps | caption 0.15, region 0.4, segmentation 0.45 |" in card
    assert "| `source segmentation` | 12 |" in card and "| eval_giou |" in card
    assert str(data.parent) not in card
    card = (Path(runs["lora"].args.output_dir) / "README.md").read_text()
    assert "| LoRA | r 4, alpha 16, dropout 0.05 |" in card


def write_rows(folder: Path, *rows: dict) -> Path:
    folder.mkdir()
    Dataset.from_list(list(rows), features=ROW_FEATURES).to_parquet(folder / "train.parquet")
    return folder


def test_boxes_without_masks_are_named_before_training(base, data, tmp_path, capsys):
    """Also where they would not be among the questions of the first draw."""
    bad = glamm_row("segmentation", 1)
    bad["masks"] = [bad["masks"][0], None]
    rows = write_rows(tmp_path / "rows", glamm_row("segmentation", 0), bad)
    arguments = glamm_command_line(base, data, tmp_path / "out", segmentation_datasets=rows, check_data=True)
    with pytest.raises(ValueError, match=r"1 of 26 rows.*image_id 'segmentation-1'.*point at 2 boxes.*1 have no mask"):
        run_glamm(arguments)
    assert "rows: row 1" in capsys.readouterr().err
    with pytest.raises(ValueError, match="image 'segmentation-1' of source 'segmentation' point at"):
        run_glamm(glamm_command_line(base, data, tmp_path / "out", segmentation_datasets=rows, max_steps=20))


def test_rows_that_point_at_nothing_teach_words(base, data, tmp_path):
    """In a step of masks, too: "there is none" is an answer."""
    none = glamm_row("segmentation", 0)
    for message in none["messages"][1::2]:
        message["content"] = [text_part("There is none.")]
    rows = write_rows(tmp_path / "rows", none, none)
    settings = {"segmentation_datasets": rows, "caption_datasets": None, "region_datasets": None, "max_steps": 1}
    trainer = run_glamm(glamm_command_line(base, data, tmp_path / "out", check_data=True, **settings))
    (entry,) = glamm_history(trainer)
    assert entry["loss"] == entry["ce_loss"] > 0 and "bce_loss" not in entry


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{kind}_datasets": None for kind in TYPES}, "No dataset was given.*--caption_datasets, --region_datasets"),
        ({"segmentation_datasets": "{data}/caption"}, "--segmentation_datasets: .*caption has no column `masks`"),
        ({"region_datasets": "{data}/region:0"}, "--region_datasets: The weight of .* must be above 0, got 0"),
        ({"region_datasets": "{data}/nowhere"}, "--region_datasets: .*nowhere does not exist"),
        ({"region_share": 0}, "`region_share` must be above 0, got 0. To leave region rows out, name no"),
        ({"max_questions": 0}, "`max_questions` must be at least 1, got 0"),
        ({"trainable_parts": "sam"}, "Unknown part 'sam' of the model. Use some of vision_tower, projector"),
        (
            {"use_peft": True, "trainable_parts": "mask_decoder"},
            "`use_peft` puts LoRA.*`trainable_parts` are mask",
        ),
        ({"model_name_or_path": None}, "`model_name_or_path` is missing"),
        ({"max_length": 512}, "`max_length` is 512, but .* Use `max_tokens`"),
        (
            {"train_sampling_strategy": "group_by_length"},
            "`train_sampling_strategy` is 'group_by_length', but rows are",
        ),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` is 0.1, but .* Set it to 0"),
        ({"load_in_8bit": True}, "`load_in_8bit` needs `use_peft`"),
    ],
)
def test_bad_arguments(base, data, tmp_path, changes, message, monkeypatch):
    monkeypatch.setattr(GlammTrainer, "train", lambda *_, **__: pytest.fail("training started"))
    changes = {name: value.format(data=data) if isinstance(value, str) else value for name, value in changes.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        glamm.main(glamm_command_line(base, data, tmp_path, **changes))


def test_zero_3_is_refused(base, data, tmp_path, monkeypatch):
    monkeypatch.setattr(glamm_trainer, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="DeepSpeed ZeRO 3 gathers.*Use ZeRO 2, or FSDP with hub_configs/accelerate"):
        run_glamm(glamm_command_line(base, data, tmp_path))


def test_precomputed_regions_are_left_out(tmp_path):
    """A Groma's rows with regions of its detector serve a GLaMM as well."""
    rows = glamm_rows("caption", 2).map(lambda _: {"proposal_boxes": [[0.5, 0.5, 1.0, 1.0]], "proposal_scores": [1.0]})
    rows.to_parquet(tmp_path / "train.parquet")
    parts, mixture = load_typed_parts({"caption": [f"{tmp_path}:2"], "region": []})
    assert joined(parts).column_names == list(CONVERSATION_FEATURES)
    assert mixture == [("caption", 0, 2, 2.0)]


def test_another_model_is_refused(data, tmp_path):
    groma = save_training_model(tmp_path / "groma")
    with pytest.raises(ValueError, match="--model_name_or_path .*: It is a 'groma' model; a GLaMM is needed"):
        run_glamm(glamm_command_line(groma, data, tmp_path / "out"))


def test_a_model_without_all_weights_is_refused(base, data, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.prompt_projection.linear_1.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"It lacks 1 weight, such as model\.prompt_projection\.linear_1\.weight"):
        run_glamm(glamm_command_line(folder, data, tmp_path / "out"))


def test_the_command_line_trains(base, data, tmp_path):
    arguments = glamm_command_line(base, data, tmp_path / "out", max_steps=1)
    assert cli.main(["train", "glamm", *arguments]) == 0
    state = json.loads((tmp_path / "out" / "config.json").read_text())
    assert state["model_type"] == "glamm"
