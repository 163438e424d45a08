"""The script of the mask decoder: its command line, its starting model, what it refuses."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoImageProcessor, AutoProcessor, LlamaConfig

from transformers_groma import GromaForConditionalGeneration, GromaForRegionProposal
from transformers_groma.data.columns import CONVERSATION_FEATURES, features_of, image_part, region_part, text_part
from transformers_groma.training import masks
from transformers_groma.training.mask_trainer import GromaMaskTrainer

from ..tiny import tiny_detector
from .mask_rows import MASK_FEATURES, image_processor, mask_detector, mask_rows, weights_but_masks
from .rows import save_training_model, turn

DECODER = "{hidden_size: 32, num_attention_heads: 2, mlp_dim: 32, iou_head_hidden_dim: 16, mask_input_channels: 8}"


def write_rows(folder: Path, rows: Dataset, split: str = "train") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(folder / f"{split}-00000.parquet")
    return folder


def conversation_rows(count: int) -> Dataset:
    """The rows of `mask_rows` as conversations about them, in which the user points at the first object."""
    rows = [
        {
            **{name: row[name] for name in ("image", "image_id", "boxes_xyxy", "masks")},
            "messages": turn(
                [image_part(), text_part("What is "), region_part(0), text_part("?")], [text_part("It.")]
            ),
            "source": "refcoco",
        }
        for row in mask_rows(count, seed=5)
    ]
    features = features_of(["masks"], "conversation")
    assert set(features) > set(CONVERSATION_FEATURES)
    return Dataset.from_list(rows, features=features)


def script_arguments(tmp_path: Path, model: Path) -> list[str]:
    """A YAML recipe and what comes behind it."""
    data = write_rows(tmp_path / "data", mask_rows(12))
    write_rows(tmp_path / "data", mask_rows(5, seed=1), "validation")
    (tmp_path / "recipe.yaml").write_text(
        "per_device_train_batch_size: 4\nprompts_per_image: 4\nlearning_rate: 0.002\nmax_steps: 100\n"
        f"report_to: none\nuse_cpu: true\ntrain_datasets: [{data}]\nmax_eval_rows: 4\nmask_decoder_config: {DECODER}\n"
    )
    return [
        "--config", f"{tmp_path}/recipe.yaml", "--model_name_or_path", str(model), "--max_steps", "2",
        "--eval_datasets", str(data), "--output_dir", f"{tmp_path}/out", "--save_steps", "1", "--disable_tqdm", "true",
        "--eval_strategy", "steps", "--eval_steps", "1",
    ]  # fmt: skip


def test_script_gives_a_whole_groma_a_mask_decoder(tmp_path, caplog):
    start = save_training_model(tmp_path / "groma")
    before = GromaForConditionalGeneration.from_pretrained(start)
    arguments = script_arguments(tmp_path, start)
    masks.main([*arguments, "--check_data", "true"])
    trained = GromaForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert trained.config.mask_decoder_config.hidden_size == 32
    after = trained.state_dict()
    for name, value in before.state_dict().items():
        assert torch.equal(value, after[name]), name
    assert len(after) > len(before.state_dict())
    AutoProcessor.from_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "eval_results.json").is_file()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| trained parts | mask_decoder |" in card and "| eval_iou_click |" in card
    assert "| `source coco` | 8 |" in card and "| prompts per image | 4 |" in card
    assert 'pipeline("image-grounding", model="out")' in card
    assert str(tmp_path) not in card
    # Resumed from the last checkpoint: two more steps.
    masks.main([*arguments, "--max_steps", "4", "--resume_from_checkpoint", "true"])
    assert (tmp_path / "out" / "checkpoint-4").is_dir()
    # A model with a decoder is where another training may start.
    again = [*arguments, "--model_name_or_path", f"{tmp_path}/out", "--output_dir", f"{tmp_path}/second"]
    masks.main([*again, "--learning_rate", "0"])
    second = GromaForConditionalGeneration.from_pretrained(tmp_path / "second").state_dict()
    now = GromaForConditionalGeneration.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(value, second[name]) for name, value in now.items())
    with pytest.raises(ValueError, match="whose `mlp_dim` is 32, but `mask_decoder_config` says 64"):
        masks.main([*again, "--mask_decoder_config", '{"mlp_dim": 64}'])


def test_script_gives_a_detector_a_mask_decoder(tmp_path):
    detector = tiny_detector()
    detector.save_pretrained(tmp_path / "detector")
    image_processor().save_pretrained(tmp_path / "detector")
    masks.main(script_arguments(tmp_path, tmp_path / "detector"))
    trained = GromaForRegionProposal.from_pretrained(tmp_path / "out")
    after = weights_but_masks(trained)
    for name, value in detector.state_dict().items():
        assert torch.equal(value, after[name]), name
    assert trained.mask_decoder is not None
    AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert "AutoModelForObjectDetection" in (tmp_path / "out" / "README.md").read_text()


def test_missing_weights_are_not_trained_from_random_ones(tmp_path):
    image_processor().save_pretrained(tmp_path)
    arguments = masks.MaskArguments(model_name_or_path=str(tmp_path))
    detector = mask_detector()
    whole = detector.state_dict()
    part = "mask_decoder.neck.projection.weight"
    detector.save_pretrained(tmp_path, state_dict={name: value for name, value in whole.items() if name != part})
    with pytest.raises(ValueError, match=f"lacks 1 weight, such as {part}. Name a complete model"):
        masks.load_model(arguments, 0)
    detector.config.mask_decoder_config = None
    kept = {name: value for name, value in whole.items() if "mask_decoder" not in name}
    lost = next(name for name in kept if name.startswith("region_proposer."))
    kept.pop(lost)
    detector.save_pretrained(tmp_path, state_dict=kept)
    with pytest.raises(ValueError, match=f"lacks .*such as {lost}"):
        masks.load_model(arguments, 0)


def test_a_fresh_decoder_follows_from_the_seed(tmp_path):
    tiny_detector().save_pretrained(tmp_path)
    image_processor().save_pretrained(tmp_path)
    arguments = masks.MaskArguments(model_name_or_path=str(tmp_path), mask_decoder_config={"hidden_size": 64})
    first, again, other = (masks.load_model(arguments, seed)[0].mask_decoder.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())
    # Settings that are left out are the defaults.
    assert first["neck.projection.weight"].shape[0] == 64


def test_parts_keep_the_dtype_in_which_they_were_saved(tmp_path):
    start = save_training_model(tmp_path / "groma")
    half = GromaForConditionalGeneration.from_pretrained(start, dtype=torch.bfloat16)
    half.save_pretrained(start)
    masks.main(script_arguments(tmp_path, start))
    trained = GromaForConditionalGeneration.from_pretrained(tmp_path / "out", dtype="auto")
    assert {weight.dtype for weight in trained.model.language_model.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in trained.model.mask_decoder.parameters()} == {torch.float32}
    for name, value in half.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name]), name


def test_conversations_with_masks_and_detection_rows_mix(tmp_path, monkeypatch):
    conversations = write_rows(tmp_path / "conversations", conversation_rows(8))
    mask_detector().save_pretrained(tmp_path / "detector")
    image_processor().save_pretrained(tmp_path / "detector")
    arguments = script_arguments(tmp_path, tmp_path / "detector")
    arguments += ["--train_datasets", str(tmp_path / "data"), f"{conversations}:0.5", "--check_data", "true"]
    seen = []
    monkeypatch.setattr(GromaMaskTrainer, "train", lambda self, **_: seen.append(self.train_dataset))
    masks.main(arguments)
    assert len(seen[0]) == 12 + 4
    assert seen[0][15]["targets"].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--train_datasets": "{tmp_path}/nothing/here"}, "^--train_datasets: .*does not exist"),
        ({"--train_datasets": "{tmp_path}/without"}, "without has no column `masks`"),
        ({"--train_datasets": "{tmp_path}/empty"}, "None of the 2 rows of the dataset has a mask"),
        ({"--train_datasets": "{tmp_path}/damaged", "--check_data": "true"}, "Row 1 .*mask is damaged"),
        ({"--model_name_or_path": "{tmp_path}/other"}, "^--model_name_or_path .*'llama' model; a complete Groma or"),
        ({"--mask_decoder_config": '{{"hidden_size": 30}}'}, "`mask_decoder_config`: .*multiple of 8, got 30"),
        (
            {"--mask_decoder_config": '{{"hidden": 64}}'},
            "has no setting 'hidden'. It has attention_.*use_skip_maps",
        ),
        ({"--mask_decoder_config": "64"}, "must be settings by name, got 64"),
        ({"--augmentation": "mosaic"}, "must be one of recipe, flip, none, got 'mosaic'"),
    ],
)
def test_bad_arguments(tmp_path, changes, message, monkeypatch):
    rows = mask_rows(2)
    write_rows(tmp_path / "without", rows.remove_columns("masks"))
    write_rows(tmp_path / "empty", rows.map(lambda row: {"masks": [None] * len(row["masks"])}, features=MASK_FEATURES))
    damaged = [dict(row) for row in rows]
    damaged[1]["masks"] = [{**mask, "counts": mask["counts"][:-2]} for mask in damaged[1]["masks"]]
    write_rows(tmp_path / "damaged", Dataset.from_list(damaged, features=MASK_FEATURES))
    LlamaConfig().save_pretrained(tmp_path / "other")
    tiny_detector().save_pretrained(tmp_path / "detector")
    image_processor().save_pretrained(tmp_path / "detector")
    arguments = script_arguments(tmp_path, tmp_path / "detector")
    for name, value in changes.items():
        arguments += [name, value.format(tmp_path=tmp_path)]
    monkeypatch.setattr(GromaMaskTrainer, "train", lambda *_, **__: pytest.fail("training started"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        masks.main(arguments)
    with pytest.raises(ValueError, match="Give `model_name_or_path`"):
        masks.load_model(masks.MaskArguments(), 0)
