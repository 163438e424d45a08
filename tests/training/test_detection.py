"""The script of stage 1: its command line, its starting model, what it refuses."""

import pickle
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoImageProcessor

from transformers_groma import GromaForConditionalGeneration, GromaForRegionProposal
from transformers_groma.data.columns import DETECTION_FEATURES
from transformers_groma.training import detection
from transformers_groma.training.detection_trainer import GromaDetectionTrainer

from ..tiny import tiny_config, tiny_detector_config
from .detectors import SIDE, detection_rows, image_processor, training_arguments


def parquet(folder: Path, count: int, split: str = "train", **kwargs) -> Path:
    folder.mkdir(exist_ok=True)
    detection_rows(count, **kwargs).to_parquet(folder / f"{split}-00000.parquet")
    return folder


def script_arguments(tmp_path: Path) -> list[str]:
    """A YAML recipe and what comes behind it."""
    data = parquet(tmp_path / "data", 12)
    parquet(tmp_path / "data", 5, "validation", seed=1)
    tiny_detector_config().save_pretrained(tmp_path / "config")
    (tmp_path / "recipe.yaml").write_text(
        "per_device_train_batch_size: 4\nlearning_rate: 0.002\nmax_steps: 100\nfreeze_vision_tower: false\n"
        f"augmentation: flip\nreport_to: none\nuse_cpu: true\ntrain_datasets: [{data}]\nmax_eval_rows: 4\n"
    )
    return [
        "--config", f"{tmp_path}/recipe.yaml", "--config_name", f"{tmp_path}/config", "--max_steps", "2",
        "--eval_datasets", str(data), "--output_dir", f"{tmp_path}/out", "--save_steps", "1", "--disable_tqdm", "true",
        "--eval_strategy", "steps", "--eval_steps", "1", "--load_best_model_at_end", "true",
        "--metric_for_best_model", "queries_ar@100",
    ]  # fmt: skip


def test_script(tmp_path, capsys):
    arguments = script_arguments(tmp_path)
    detection.main([*arguments, "--check_data", "true"])
    model = GromaForRegionProposal.from_pretrained(tmp_path / "out")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert dict(processor.size) == {"height": SIDE, "width": SIDE}
    assert (tmp_path / "out" / "eval_results.json").is_file()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| trained parts | region_proposer, vision_tower |" in card
    assert "| `data` |  |" in card and "| `source coco` | 8 |" in card
    assert "| configuration, random weights | config |" in card and "| eval_queries_ar@100 |" in card
    assert 'AutoModelForObjectDetection.from_pretrained("out")' in card
    assert str(tmp_path) not in card
    regions = model.propose_regions(processor(images=Image.new("RGB", (64, 48)), return_tensors="pt")["pixel_values"])
    assert regions.boxes.shape == (1, 6, 4)
    # Resumed from the last checkpoint: two more steps.
    detection.main([*arguments, "--max_steps", "4", "--resume_from_checkpoint", "true"])
    assert (tmp_path / "out" / "checkpoint-4").is_dir()
    # A trained detector is where another training may start.
    start = arguments.index("--config_name")
    arguments[start : start + 2] = ["--model_name_or_path", f"{tmp_path}/out"]
    detection.main([*arguments, "--max_steps", "1", "--output_dir", f"{tmp_path}/second", "--save_strategy", "best"])
    assert (tmp_path / "second" / "model.safetensors").is_file()


def test_detector_of_a_whole_groma(tmp_path):
    torch.manual_seed(0)
    whole = GromaForConditionalGeneration(tiny_config())
    whole.save_pretrained(tmp_path / "whole")
    image_processor().save_pretrained(tmp_path / "whole")
    arguments = detection.DetectionArguments(model_name_or_path=str(tmp_path / "whole"))
    model, processor = detection.load_detector(arguments, training_arguments(tmp_path))
    assert dict(processor.size)["height"] == SIDE
    for name, value in model.region_proposer.state_dict().items():
        assert torch.equal(value, whole.model.region_proposer.state_dict()[name])
    for name, value in model.vision_tower.state_dict().items():
        assert torch.equal(value, whole.model.vision_tower.state_dict()[name])


def test_arguments_of_older_checkpoints_load(tmp_path):
    """`training_args.bin` of releases before the trainer had a module of its own names the script."""
    new = pickle.dumps(training_arguments(tmp_path, learning_rate=3e-4), protocol=0)
    old = new.replace(b"transformers_groma.training.detection_trainer", b"transformers_groma.training.detection")
    assert old != new
    assert pickle.loads(old).learning_rate == 3e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--train_datasets": None}, "No dataset was given"),
        ({"--train_datasets": "{tmp_path}/nothing/here"}, "does not exist"),
        ({"--train_datasets": "{tmp_path}/columns"}, "needs the column 'boxes_xyxy'"),
        ({"--train_datasets": "{tmp_path}/source"}, "coco or sa1b; found 'flickr'"),
        ({"--train_datasets": "{tmp_path}/outside", "--check_data": "true"}, "Row 2 .*is outside the image"),
        ({"--config_name": None}, "Give one of `model_name_or_path`"),
        ({"--model_name_or_path": "x"}, "Give one of `model_name_or_path`"),
        ({"--freeze_vision_tower": "true"}, "a frozen vision encoder would keep"),
        ({"--augmentation": "mosaic"}, "must be one of recipe, flip, none, got 'mosaic'"),
        ({"--vision_lr_scale": "0"}, "`vision_lr_scale` must be above 0, got 0"),
        ({"--config": "{tmp_path}/missing.yaml"}, "missing.yaml is not a file"),
    ],
)
def test_bad_arguments(tmp_path, changes, message, monkeypatch):
    rows = detection_rows(4)
    for name in ("columns", "source", "outside"):
        (tmp_path / name).mkdir()
    rows.remove_columns("boxes_xyxy").to_parquet(tmp_path / "columns" / "train.parquet")
    flickr = [dict(row, source="flickr") for row in rows]
    Dataset.from_list(flickr, features=DETECTION_FEATURES).to_parquet(tmp_path / "source" / "train.parquet")
    outside = [dict(row, boxes_xyxy=[[0, 0, 80, 10]] if number == 2 else []) for number, row in enumerate(rows)]
    Dataset.from_list(outside, features=DETECTION_FEATURES).to_parquet(tmp_path / "outside" / "train.parquet")
    arguments = script_arguments(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    for name, value in changes.items():
        if value is None and name in arguments:
            position = arguments.index(name)
            del arguments[position : position + 2]
        elif value is None:
            lines = [line for line in recipe.read_text().splitlines() if not line.startswith(name[2:])]
            recipe.write_text("\n".join(lines))
        elif name in arguments:
            arguments[arguments.index(name) + 1] = value.format(tmp_path=tmp_path)
        else:
            arguments += [name, value.format(tmp_path=tmp_path)]
    monkeypatch.setattr(GromaDetectionTrainer, "train", lambda *_, **__: pytest.fail("training started"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        detection.main(arguments)
