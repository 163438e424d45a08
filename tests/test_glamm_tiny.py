"""hub_configs/glamm-tiny: its scripts build it, its card says what was measured, and it answers with masks."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from scripts.glamm_tiny import train
from scripts.glamm_tiny.build import build_glamm_tiny
from scripts.glamm_tiny.card import HEADLINES, MODEL, STEPS, tiny_card, write_tiny_card
from scripts.glamm_tiny.language_rows import RowMaker
from scripts.glamm_tiny.package import PRECISE_PARTS, package
from scripts.glamm_tiny.pretrain_grounding import WEIGHTS as GROUNDING_WEIGHTS
from scripts.glamm_tiny.pretrain_language_model import WEIGHTS as LANGUAGE_WEIGHTS
from transformers_groma import GlammForConditionalGeneration, GlammProcessor
from transformers_groma.masks import mask_iou
from transformers_groma.rle import rle_to_mask
from transformers_groma.shapes.expressions import unique_object
from transformers_groma.shapes.rows import shapes_dataset
from transformers_groma.shapes.scenes import make_scene
from transformers_groma.shapes.world import world_of
from transformers_groma.training.glamm_collator import GlammCollator


@pytest.fixture(scope="module")
def tiny() -> tuple[GlammForConditionalGeneration, GlammProcessor]:
    return GlammForConditionalGeneration.from_pretrained(MODEL).eval(), GlammProcessor.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def built(tiny, tmp_path_factory) -> Path:
    """What the build script makes of pretrained parts with the shipped values."""
    folder = tmp_path_factory.mktemp("glamm-tiny")
    grounding, language = {}, {}
    for name, value in tiny[0].model.state_dict().items():
        part = name.split(".")[0]
        if part in ("grounding_encoder", "mask_decoder"):
            grounding[name.replace("grounding_encoder.vision_encoder.", "grounding_encoder.")] = value.clone()
        else:
            spoken = part in ("vision_tower", "multi_modal_projector", "region_encoder")
            language[f"speaker.{name}" if spoken else name] = value.clone()
    for name in ("grounding", "language"):
        (folder / name).mkdir()
    save_file(grounding, folder / "grounding" / GROUNDING_WEIGHTS)
    save_file(language, folder / "language" / LANGUAGE_WEIGHTS)
    build_glamm_tiny(folder / "grounding", folder / "language", folder / "base")
    return folder / "base"


def test_all_but_what_was_trained_is_what_the_script_builds(built):
    names = {path.name for path in MODEL.iterdir()}
    assert names == {path.name for path in built.iterdir()} | {"README.md"}
    for name in names - {"README.md", "model.safetensors"}:
        assert (built / name).read_text() == (MODEL / name).read_text(), f"{name} is stale: make train-glamm-tiny"


def test_what_is_packed_is_what_was_trained(built, tmp_path):
    package(built, built, tmp_path)
    for name, value in load_file(tmp_path / "model.safetensors").items():
        precise = bool(set(PRECISE_PARTS) & set(name.split(".")))
        assert value.dtype == (torch.float32 if precise else torch.bfloat16), name
    # Names of layers in files differ between a model that was made and one that was loaded; both load.
    packed, shipped = (
        GlammForConditionalGeneration.from_pretrained(folder).state_dict() for folder in (tmp_path, MODEL)
    )
    assert packed.keys() == shipped.keys()
    for name, value in shipped.items():
        assert torch.equal(packed[name], value), name


def test_size():
    assert (MODEL / "model.safetensors").stat().st_size <= 6e6


def test_card_is_what_the_script_writes(tmp_path):
    """From the template, the minutes of the training and the metrics in the metadata, which the table repeats."""
    shutil.copytree(MODEL, tmp_path / "glamm-tiny")
    write_tiny_card(tmp_path / "glamm-tiny")
    card = (tmp_path / "glamm-tiny" / "README.md").read_text()
    assert card == (MODEL / "README.md").read_text()
    results = {(r.dataset_type, r.metric_type): r.metric_value for r in ModelCard(card).data.eval_results}
    table = card.partition("## What it can do")[2].partition("## How")[0]
    for dataset, metric, meaning in HEADLINES:
        assert f"| {meaning} | {results[dataset, metric]:.3f} |" in table


def test_card_right_after_a_training(tiny):
    """It has no metrics of the model before."""
    card = ModelCard(tiny_card(tiny[0], dict.fromkeys(STEPS, 3)))
    assert card.data.eval_results is None and "Not measured yet" in card.text
    assert card.text.count(" | 3 |") == len(STEPS)


def test_training_leaves_no_metrics_of_the_model_before(tmp_path, monkeypatch):
    output = shutil.copytree(MODEL, tmp_path / "glamm-tiny")
    monkeypatch.setattr(train, "run_steps", lambda *_: dict.fromkeys(STEPS, 180))
    monkeypatch.setattr(train, "package", lambda *_: None)
    monkeypatch.setattr(train, "MINUTES", tmp_path / "minutes.json")
    train.train(tmp_path / "work", output)
    card = ModelCard.load(output / "README.md")
    assert card.data.eval_results is None and "Not measured yet" in card.text
    assert card.text.count(" | 3 |") == len(STEPS)


def test_ids_are_those_of_the_tokenizer(tiny):
    model, processor = tiny
    tokenizer, config = processor.tokenizer, model.config
    assert len(tokenizer) == config.text_config.vocab_size
    ids = tokenizer.convert_tokens_to_ids(["<image>", "<bbox>", "[SEG]"])
    assert ids == [config.image_token_id, config.region_token_id, config.seg_token_id]
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(tokenizer, key) == getattr(config.text_config, key) == getattr(model.generation_config, key)


@pytest.mark.parametrize("task", ["rec", "region-caption", "grounded-caption"])
def test_pretraining_reads_what_training_reads(tiny, task):
    """The rows of the language model's step begin, turn and end as those of `groma train glamm`."""
    processor = tiny[1]
    maker = RowMaker(processor.tokenizer, processor.num_image_tokens)
    world = world_of(make_scene(0, "train", 3))
    kinds = {task: 1.0}
    trained = GlammCollator(processor)(list(shapes_dataset(task, 1, seed=0, questions=2, wording="glamm")))
    pretrained = maker.conversation(world, np.random.default_rng(0), kinds)
    ids, labels = trained["input_ids"][0].tolist(), trained["labels"][0].tolist()
    turn = processor.tokenizer("</s>USER:", add_special_tokens=False)["input_ids"]
    start = ids.index(processor.tokenizer.convert_tokens_to_ids("<im_end>")) + 8
    assert pretrained.input_ids[:start] == ids[:start]

    def around(values: list[int], mark: list[int], before: int) -> set[tuple[int, ...]]:
        places = [place for place in range(len(values)) if values[place : place + len(mark)] == mark]
        return {tuple(values[place - before : place + len(mark)]) for place in places}

    answer = processor.tokenizer(" ASSISTANT:", add_special_tokens=False)["input_ids"]
    assert around(ids, answer, 0) == around(pretrained.input_ids, answer, 0) == {tuple(answer)}
    if task != "grounded-caption":
        assert around(ids, turn, 1) == around(pretrained.input_ids, turn, 1)
    learned = [[label for label in one if label != -100] for one in (labels, pretrained.labels)]
    assert learned[0][0] == learned[1][0] and learned[0][-1] == learned[1][-1]


def test_answers_on_scenes_that_it_never_saw(tiny):
    """A small sample of what the card says, far below it."""
    model, processor = tiny
    ious = []
    for index in range(12):
        scene = make_scene(7, "validation", index)
        found = unique_object(world_of(scene), np.random.default_rng(index))
        if found is None:
            continue
        text, target, _ = found
        inputs = processor(images=scene.draw(), text=f"Please segment the {text} in this image.", return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=12, return_dict_in_generate=True)
        size = (scene.image_size, scene.image_size)
        (answer,) = processor.post_process_grounded_generation(output, inputs=inputs, target_sizes=[size])
        assert answer.text.startswith("Sure, it is")
        ious.append(mask_iou(answer.phrases[0].regions.masks, scene.objects[target].mask[None])[0, 0])
    assert np.mean(ious) > 0.6


def test_a_group_has_one_mask_of_all_that_are_meant(tiny):
    """A small sample of what the card says, below it."""
    model, processor = tiny
    ious = []
    for row in shapes_dataset("grounding", 16, seed=7, split="validation", evaluation=True, wording="glamm"):
        if len(row["target_masks"]) < 2:
            continue
        question = "".join(part["text"] for part in row["messages"][0]["content"] if part["type"] != "image")
        image = row["image"].convert("RGB")
        inputs = processor(images=image, text=question, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=12, return_dict_in_generate=True)
        (answer,) = processor.post_process_grounded_generation(
            output, inputs=inputs, target_sizes=[(image.height, image.width)]
        )
        assert answer.text.startswith("Sure, they are")
        true = np.any([rle_to_mask(mask) for mask in row["target_masks"]], axis=0)
        ious.append(mask_iou(answer.phrases[0].regions.masks, true[None])[0, 0])
    assert len(ious) > 5 and np.mean(ious) > 0.4
