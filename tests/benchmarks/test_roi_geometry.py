"""The experiment of docs/roi-geometry.md: where each geometry samples, and a small run, resumed too."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from matplotlib.image import imread

from transformers_groma import (
    GromaForConditionalGeneration,
    GromaForRegionProposal,
    GromaImageProcessorPil,
    GromaProcessor,
)
from transformers_groma.evaluation.benchmarks.shapes import evaluate_shapes
from transformers_groma.training.trainer import GromaSFTTrainer

from ..tiny import MAX_REGIONS, VISION, tiny_detector_config, tiny_model
from ..training.rows import training_tokenizer, write_conversations

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "roi-geometry.md"
# Scenes need 112 pixels.
SIZE = 112
STEPS = {"alignment": 2, "sft": 3}
ROWS = 6


@pytest.fixture(scope="module")
def modules():
    """`roi_geometry` and `roi_geometry_report`; scripts find each other beside them."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("roi_geometry"), importlib.import_module("roi_geometry_report")
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def report(modules):
    return modules[1]


class TestWhereSamplesFall:
    @pytest.mark.parametrize(
        ("box", "shares"),
        [
            # Legacy: from (1, 1) to (1, 1), the far corner of the map: the outer pixel belongs to it.
            ([56.0, 56, 168, 168], {"corners_only": 0.25, "right": 1.0}),
            ([10.0, 10, 60, 60], {"legacy": 1.0, "corners_only": 1.0, "right": 1.0}),
            ([130.0, 20, 180, 60], {"corners_only": 0.0, "right": 1.0}),
            ([20.0, 130, 60, 180], {"corners_only": 0.0, "right": 1.0}),
            # Centre (0.75, 0.75), size 0.25: from 1.5 to 0.5, half of each axis on the map.
            ([140.0, 140, 196, 196], {"legacy": 0.25, "corners_only": 0.0, "right": 1.0}),
        ],
    )
    def test_share_on_map(self, report, box, shares):
        for name, expected in shares.items():
            share = report.share_on_map(report.GEOMETRIES[name], torch.tensor([box]), 224)
            # A sample up to half a pixel off the map counts as on it.
            assert abs(float(share) - expected) <= 0.15, name

    def test_weights_are_where_the_corners_say(self, report):
        box = torch.tensor([42.0, 21, 105, 98])
        for name, corners in (
            ("right", [12.0, 6, 30, 28]),
            ("corners_only", [24.0, 12, 60, 56]),
            ("legacy", [42.0, 34, 36, 44]),  # mirrored along x: twice the centre is right of twice the width
        ):
            weights, found = report.read_weights(report.GEOMETRIES[name], box, 224)
            assert found == pytest.approx(corners)
            share = report.share_on_map(report.GEOMETRIES[name], box[None], 224)
            assert float(weights.sum()) == pytest.approx(float(share), abs=1e-5)
            rows, columns = weights.nonzero().unbind(1)
            x1, x2 = sorted((corners[0], corners[2]))
            assert columns.min() >= x1 - 1 and columns.max() <= x2 + 1
            assert rows.min() >= corners[1] - 1 and rows.max() <= corners[3] + 1

    def test_strides_are_those_of_the_released_weights(self, report):
        strides = {name: geometry.strides() for name, geometry in report.GEOMETRIES.items()}
        assert strides == {
            "legacy": [1.75, 3.5, 7],
            "corners_only": [1.75, 3.5, 7],
            "right": [3.5, 7, 14],
        }

    def test_samples_are_drawn(self, report, tmp_path):
        report.draw_samples(tmp_path / "samples.png")
        drawn = imread(tmp_path / "samples.png")
        assert drawn.shape[0] > 800 and drawn.std() > 0.1
        _, boxes = report.example_scene()
        corners_only = report.GEOMETRIES["corners_only"]
        seen = [
            float(report.share_on_map(corners_only, box[None], report.EXAMPLE_SIZE).max()) for box in boxes.values()
        ]
        assert seen[0] > 0.5 and seen[1] == 0


class TestReport:
    def results(self, report, seeds=(0, 1)):
        values = {"legacy": 0.5, "corners_only": 0.25, "right": 0.75}
        return [
            {
                "geometry": name,
                "seed": seed,
                "settings": {"alignment_steps": 2, "sft_steps": 3, "rows": 10},
                "metrics": {
                    task: {
                        **dict.fromkeys(metrics, value + 0.1 * seed),
                        "begins_top_left": value,
                        "elsewhere": None,
                        "rows_begins_top_left": 10,
                        "rows_elsewhere": 0,
                    }
                    for task, metrics in report.TASKS.items()
                },
            }
            for seed in seeds
            for name, value in values.items()
        ]

    def test_table(self, report):
        on_map = {name: torch.tensor([1.0, 0.0]) for name in report.GEOMETRIES}
        lines = report.results_table(self.results(report), on_map, 0.25).splitlines()
        assert f"| legacy | 50.0 |{' 55.0 ± 7.1 | 50.0, 60.0 |' * 3}" in lines
        assert lines[0].endswith("gets 25.0 % of the attributes.")
        assert "| right | 50.0 | 75.0 ± 0.0 | – | 75.0 ± 0.0 | – |" in lines
        tables = [line for line in lines if line.startswith("|")]
        assert {line.count("|") for line in tables[:5]} == {9} and {line.count("|") for line in tables[5:]} == {7}

    def test_what_a_box_tells(self, report):
        texts = ["A small red star.", "A large red ring.", "A small striped blue star."]
        assert report.blind_attributes(texts) == (3 + 1 + 2 + 2) / 10

    def test_plot(self, report, tmp_path):
        report.plot_results(self.results(report, seeds=(0,)), tmp_path / "results.png")
        assert imread(tmp_path / "results.png").std() > 0.05

    def test_document_without_marks(self, report, tmp_path):
        document = tmp_path / "document.md"
        document.write_text("<!-- table -->")
        with pytest.raises(ValueError, match="must hold <!-- table --> and"):
            report.fill_document(document, "")


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list[str]:
    """A command line of the runner for a very small model, with the recipes of groma-tiny but other data."""
    folder = tmp_path_factory.mktemp("roi")
    tokenizer = training_tokenizer()
    marks = {"image": "<image>", "refer_box": "<refer_box>", "ground_box": "<ground_box>", "first_proxy": "<r0>"}
    model = tiny_model(
        vision_config={"image_size": SIZE},
        text_config={
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "max_position_embeddings": 1024,
        },
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(mark) for name, mark in marks.items()},
    )
    model.save_pretrained(folder / "language")
    GromaProcessor(
        GromaImageProcessorPil(size={"height": SIZE, "width": SIZE}),
        tokenizer,
        num_image_tokens=model.config.num_image_tokens,
        max_regions=MAX_REGIONS,
    ).save_pretrained(folder / "language")
    config = tiny_detector_config()
    config.vision_config.image_size = SIZE
    torch.manual_seed(1)
    GromaForRegionProposal(config).save_pretrained(folder / "detection")

    data = write_conversations(folder / "data", 12, text_only_every=None)
    for stage in STEPS:
        recipe = yaml.safe_load((ROOT / "hub_configs" / "recipes" / "tiny" / f"{stage}.yaml").read_text())
        recipe |= {"train_datasets": [str(data)], "per_device_train_batch_size": 4, "disable_tqdm": True}
        recipe |= {"dataloader_num_workers": 0, "logging_steps": 1, "use_cpu": True}
        recipe.pop("eval_datasets")
        (folder / "recipes").mkdir(exist_ok=True)
        (folder / "recipes" / f"{stage}.yaml").write_text(yaml.safe_dump(recipe))
    document = folder / "docs" / "roi-geometry.md"
    document.parent.mkdir()
    document.write_text(DOCUMENT.read_text(encoding="utf-8"), encoding="utf-8")
    options = {
        "--alignment-steps": STEPS["alignment"],
        "--sft-steps": STEPS["sft"],
        "--rows": ROWS,
        "--seeds": 3,
        "--threads": 1,
        "--language": folder / "language",
        "--detection": folder / "detection",
        "--recipes": folder / "recipes",
        "--work": folder / "work",
        "--document": document,
    }
    return [str(word) for option in options.items() for word in option]


def option(command: list[str], name: str) -> Path:
    return Path(command[command.index(name) + 1])


def test_experiment_that_is_killed_and_goes_on(modules, command, monkeypatch, capsys):
    """Killed in a training behind a checkpoint, then in an evaluation; nothing that was finished is done again."""
    script, report = modules
    assert VISION["image_size"] != SIZE
    threads = torch.get_num_threads()
    monkeypatch.setattr(script, "SAVE_STEPS", 1)
    steps: list[int] = []
    training_step, evaluate = GromaSFTTrainer.training_step, script.evaluate
    state = {"kill_at": 2}

    def counted_step(trainer, *args, **kwargs):
        if trainer.state.global_step == state["kill_at"]:
            raise KeyboardInterrupt
        steps.append(trainer.state.global_step)
        return training_step(trainer, *args, **kwargs)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(GromaSFTTrainer, "training_step", counted_step)
    with pytest.raises(KeyboardInterrupt):
        script.main(command)
    work = option(command, "--work")
    assert list(json.loads((work / "legacy-seed3" / "run.json").read_text())["seconds"]) == ["alignment"]
    assert steps == [0, 1]

    state["kill_at"] = None
    monkeypatch.setattr(script, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        script.main(command)
    assert steps == [0, 1, 2], "not from its checkpoint"

    monkeypatch.setattr(script, "evaluate", evaluate)
    capsys.readouterr()
    script.main(command)
    torch.set_num_threads(threads)
    assert steps == [0, 1, 2, *range(3), *range(3)]

    # Each run trained its own geometry, from weights that follow from the seed alone.
    starts = []
    for name, geometry in report.GEOMETRIES.items():
        folder = work / f"{name}-seed3"
        start, tuned = (GromaForConditionalGeneration.from_pretrained(folder / part) for part in ("start", "sft"))
        for model in (start, tuned):
            assert model.config.region_encoder_config.roi_box_format == geometry.box_format
            assert model.config.region_encoder_config.roi_strides == geometry.strides()
        starts.append(start.model.region_encoder.output_projection.weight)
        assert not torch.equal(tuned.model.region_encoder.output_projection.weight, starts[-1])
        detector = GromaForRegionProposal.from_pretrained(option(command, "--detection"))
        weights = tuned.model.vision_tower.state_dict()
        assert all(torch.equal(weights[key], value) for key, value in detector.vision_tower.state_dict().items())
        assert not list(folder.glob("*/checkpoint-*"))
    assert torch.equal(starts[0], starts[1]) and torch.equal(starts[0], starts[2])

    # The metrics are those of the package's evaluation.
    metrics = json.loads((work / "right-seed3" / "run.json").read_text())["metrics"]
    processor = GromaProcessor.from_pretrained(work / "right-seed3" / "sft")
    expected = evaluate_shapes(tuned.eval(), processor, rows=ROWS, tasks=list(report.TASKS), progress=False)
    for task, values in expected.items():
        assert {name: metrics[task][name] for name in values} == values
        assert metrics[task]["rows_begins_top_left"] + metrics[task]["rows_elsewhere"] == ROWS

    document = option(command, "--document")
    text = document.read_text(encoding="utf-8")
    assert "Not measured yet" not in text and "| corners only | " in text and text.count("<!--") == 2
    for name in (report.RESULTS_PLOT, report.SAMPLES_PLOT):
        assert f"(images/{name})" in text and imread(document.parent / "images" / name).ndim == 3
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["benchmark"] == "roi_geometry" and set(line["seconds"]) == {"alignment", "sft", "evaluation"}
    assert len(line["ratios"]) == 6

    # With other settings, results of the folder do not count.
    with pytest.raises(ValueError, match=r"other settings \(rows\)"):
        script.main([*command, "--rows", "7"])


def test_models_that_are_not_there(modules, command, tmp_path):
    with pytest.raises(FileNotFoundError, match="make train-tiny"):
        modules[0].main([*command, "--language", str(tmp_path)])


def test_document_has_its_marks_and_images(report):
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.index(report.TABLE_BEGIN) < text.index(report.TABLE_END)
    assert (DOCUMENT.parent / "images" / report.SAMPLES_PLOT).is_file()
    for geometry in report.GEOMETRIES.values():
        strides = ", ".join(f"{stride:g}" for stride in geometry.strides())
        assert f'| `"{geometry.box_format}"` | `[{strides}]` |' in text
