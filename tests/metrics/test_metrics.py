"""The `evaluate` metrics: they load from a folder and from a Hub, and agree with the package's functions."""

import doctest
import json
import os
import re
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import evaluate
import numpy as np
import pytest
import yaml

from transformers_groma.evaluation import text_encoders
from transformers_groma.evaluation.metrics.as_many_recall import any_recall, as_many_recall, merged_boxes_recall
from transformers_groma.evaluation.metrics.cider_meteor import cider
from transformers_groma.evaluation.metrics.click_segmentation import click_segmentation_scores
from transformers_groma.evaluation.metrics.grounded_masks import grounded_mask_scores
from transformers_groma.evaluation.metrics.lvis_average_precision import lvis_ground_eval
from transformers_groma.evaluation.metrics.mask_average_precision import class_agnostic_mask_metrics
from transformers_groma.evaluation.metrics.phrase_precision_recall import grounded_phrase_scores
from transformers_groma.evaluation.metrics.rec_accuracy import rec_accuracy
from transformers_groma.evaluation.metrics.referring_segmentation import referring_segmentation_scores
from transformers_groma.masks import mask_to_rle

REPOSITORY = Path(__file__).parents[2]
METRICS = sorted(path.name for path in (REPOSITORY / "metrics").iterdir() if path.is_dir())

# Decimals that float32 cannot hold, so that metrics would change if boxes went through it.
TARGETS = [[[0.1, 0.2, 50.3, 50.7], [100.9, 0.0, 150.1, 50.0]], [[0.0, 100.0, 90.0, 190.7]], []]
BOXES = [[[0.1, 0.2, 50.3, 47.7], [300.0, 0.0, 320.0, 20.0], [100.9, 0.0, 150.1, 44.4]], [], [[1.0, 2.0, 3.0, 4.0]]]


def load(name: str) -> evaluate.EvaluationModule:
    return evaluate.load(str(REPOSITORY / "metrics" / name))


@pytest.fixture(autouse=True)
def without_java(monkeypatch, tmp_path):
    """METEOR reads its tables for seconds; it has its tests in tests/evaluation."""
    monkeypatch.setenv("PATH", str(tmp_path))


def test_rec_accuracy():
    references = [targets[0] for targets in TARGETS[:2]]
    expected = rec_accuracy(BOXES[:2], references)
    assert load("rec_accuracy").compute(predictions=BOXES[:2], references=references) == expected
    assert (expected["acc@0.5"], expected["missing"]) == (0.5, 0.5)


def test_batches_are_one_set():
    metric = load("rec_accuracy")
    references = [targets[0] for targets in TARGETS[:2]]
    for boxes, reference in zip(BOXES, references, strict=False):
        metric.add_batch(predictions=[boxes], references=[reference])
    assert metric.compute() == rec_accuracy(BOXES[:2], references)


@pytest.mark.parametrize(
    ("protocol", "recall"), [("as_many", as_many_recall), ("any", any_recall), ("merged_boxes", merged_boxes_recall)]
)
def test_as_many_recall(protocol, recall):
    metric = load("as_many_recall")
    metrics = metric.compute(predictions=BOXES, references=TARGETS, protocol=protocol)
    assert metrics == recall(BOXES, None, TARGETS)
    more = {
        "scores": [[0.1, 0.5, 0.9], [], [0.2]],
        "areas": [[500.0, 2000.0], [9000.0], []],
        "crowds": [[False, True], [False], []],
    }
    metrics = metric.compute(predictions=BOXES, references=TARGETS, protocol=protocol, **more)
    assert metrics == recall(BOXES, more["scores"], TARGETS, more["areas"], more["crowds"])


def test_as_many_recall_of_the_best_boxes():
    metric = load("as_many_recall")
    metrics = metric.compute(predictions=BOXES, references=TARGETS, protocol="any", max_boxes=1)
    assert metrics == any_recall(BOXES, None, TARGETS, max_boxes=1)
    with pytest.raises(ValueError, match="`max_boxes` is not for protocol='as_many'"):
        metric.compute(predictions=BOXES, references=TARGETS, max_boxes=1)
    with pytest.raises(ValueError, match="`protocol` must be 'as_many', 'any' or 'merged_boxes', got 'all'"):
        metric.compute(predictions=BOXES, references=TARGETS, protocol="all")


def test_lvis_ground_recall():
    questions = {"categories": ["cup", "dog", "cup"], "image_ids": ["7", "7", "8"]}
    metrics = load("lvis_ground_recall").compute(predictions=BOXES, references=TARGETS, **questions)
    assert metrics == lvis_ground_eval(BOXES, TARGETS, **questions)


def test_region_caption(caplog):
    captions, references = ["a red cat", "two dogs"], [["a red cat"], ["two big dogs", "dogs"]]
    metrics = load("region_caption").compute(predictions=captions, references=references)
    assert metrics == {"cider": cider(captions, references)}
    assert "apt-get install -y default-jre-headless" in caplog.text


def test_grounded_phrase_accuracy():
    said = [[("the cup", TARGETS[0][:1]), ("a dog", [])], []]
    true = [[("a cup", TARGETS[0][:1]), ("two cups", TARGETS[0])], [("a dog", TARGETS[1])]]
    as_columns = [
        [[{"text": text, "boxes": boxes} for text, boxes in phrases] for phrases in rows] for rows in (said, true)
    ]
    metrics = load("grounded_phrase_accuracy").compute(predictions=as_columns[0], references=as_columns[1])
    assert metrics == grounded_phrase_scores(said, true)
    assert (metrics["precision@0.5"], metrics["recall@0.5"]) == (0.5, pytest.approx(1 / 3))


MASKS = [np.eye(6, 8, offset, dtype=bool) | np.eye(6, 8, dtype=bool) for offset in range(4)]
RLES = [mask_to_rle(mask) for mask in MASKS]


def test_referring_segmentation():
    answers, targets = [RLES[:2], [], RLES[3:]], [RLES[1:2], RLES[:1], []]
    metrics = load("referring_segmentation").compute(predictions=answers, references=targets)
    assert metrics == referring_segmentation_scores(answers, targets)
    assert metrics["missing"] == pytest.approx(1 / 3) and metrics["giou"] == pytest.approx(1 / 3)


def test_grounded_masks(monkeypatch):
    said = [[("the cup", RLES[1]), ("a dog", None)], [("a cat", RLES[2])]]
    true = [[("a cup", RLES[1])], [("a dog", RLES[2]), ("two cups", RLES[3])]]
    columns = [[[{"text": text, "mask": mask} for text, mask in row] for row in rows] for rows in (said, true)]
    metrics = load("grounded_masks").compute(predictions=columns[0], references=columns[1])
    assert metrics == grounded_mask_scores(said, true)
    assert metrics["mask_recall"] == pytest.approx(1 / 3)

    class Yes:
        def __init__(self, name):
            assert name == "org/encoder"

        def __call__(self, first, second):
            return np.ones(len(first))

    monkeypatch.setattr(text_encoders, "TextEncoder", Yes)
    metrics = load("grounded_masks").compute(predictions=columns[0], references=columns[1], text_encoder="org/encoder")
    assert metrics["mask_recall"] == pytest.approx(2 / 3)


def test_mask_average_precision():
    metric = load("mask_average_precision")
    found, true, scores = [RLES[:3], []], [RLES[2:], RLES[:1]], [[0.1, 0.5, 0.9], []]
    expected = class_agnostic_mask_metrics(list(zip(found, scores, strict=True)), true)
    assert metric.compute(predictions=found, references=true, scores=scores) == expected
    ranked = metric.compute(predictions=found, references=true)
    assert ranked == class_agnostic_mask_metrics([(found[0], [1.0] * 3), ([], [])], true)
    crowds = [RLES[:2], []]
    expected = class_agnostic_mask_metrics(list(zip(found, scores, strict=True)), true, crowds=crowds)
    assert metric.compute(predictions=found, references=true, scores=scores, crowds=crowds) == expected
    with pytest.raises(ValueError, match="`scores` must have one entry for each of the 2 `predictions`, got 1"):
        metric.compute(predictions=found, references=true, scores=scores[:1])


def test_click_segmentation():
    metric = load("click_segmentation")
    found, true = [[RLES[0], RLES[1]], [RLES[2], RLES[2]]], [RLES[1], RLES[2]]
    expected = click_segmentation_scores({1: [RLES[0], RLES[2]], 5: [RLES[1], RLES[2]]}, true)
    assert metric.compute(predictions=found, references=true, clicks=[1, 5]) == expected
    with pytest.raises(
        ValueError, match=r"`predictions\[0\]` must have one mask for each of `clicks` \[1, 3, 5\], got 2"
    ):
        metric.compute(predictions=found, references=true)
    with pytest.raises(ValueError, match=r"`clicks` must be different numbers, got \[3, 3\]"):
        metric.compute(predictions=found, references=true, clicks=[3, 3])


@pytest.mark.parametrize("name", METRICS)
def test_description_and_its_example(name, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    metric = load(name)
    assert metric.info.description.strip()
    assert metric.info.citation.count("@inproceedings") >= 1
    test = doctest.DocTestParser().get_doctest(metric.inputs_description, {}, name, None, None)
    report: list[str] = []
    result = doctest.DocTestRunner().run(test, out=report.append)
    assert result.attempted >= 3
    assert result.failed == 0, "".join(report)


@pytest.mark.parametrize("name", METRICS)
def test_card(name, monkeypatch, capsys):
    """The front matter is that of a Space, inputs and metrics are all named, and the example prints what it says."""
    monkeypatch.chdir(REPOSITORY)
    text = (REPOSITORY / "metrics" / name / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["tags"] == ["evaluate", "metric"]
    assert f"`metrics/{name}`" in body
    metric = load(name)
    assert [feature for feature in metric.features if f"`{feature}`" not in body] == []
    code = re.search(r"^```python\n(.*?)^```", body, flags=re.MULTILINE | re.DOTALL).group(1)
    namespace: dict = {}
    exec(compile(code, name, "exec"), namespace)
    assert capsys.readouterr().out.split("\n")[:-1] == [line[2:] for line in code.split("\n") if line.startswith("# ")]
    metrics = [*namespace["results"], *(["meteor"] if name == "region_caption" else [])]
    assert [metric for metric in metrics if f"`{metric}`" not in body] == []


def test_from_a_hub(tmp_path):
    """As from the Hub: a Space that holds the folder, loaded by its name into an empty cache."""
    space = tmp_path / "hub" / "spaces" / "your-name" / "rec_accuracy" / "resolve"
    space.mkdir(parents=True)
    (space / "main").symlink_to(REPOSITORY / "metrics" / "rec_accuracy")
    handler = partial(_QuietHandler, directory=tmp_path / "hub")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    code = """if True:
        import json, evaluate
        metric = evaluate.load("your-name/rec_accuracy")
        print(json.dumps(metric.compute(predictions=[[[0, 0, 10, 9]], []], references=[[0, 0, 10, 10]] * 2)))
    """
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_EVALUATE_OFFLINE": "0",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "NO_PROXY": "127.0.0.1",
    }
    try:
        result = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
    finally:
        server.shutdown()
        server.server_close()
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["acc@0.5"] == 0.5


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_scoring_needs_no_model_and_no_torch():
    folder = Path(__file__).parents[2] / "src" / "transformers_groma" / "evaluation" / "metrics"
    modules = [path.stem for path in folder.glob("[a-z]*.py")]
    assert len(modules) >= 7
    code = "import sys\n" + "".join(f"import transformers_groma.evaluation.metrics.{name}\n" for name in modules)
    code += "heavy = {'torch', 'transformers', 'datasets', 'evaluate'} & sys.modules.keys()\n"
    code += "sys.exit(f'imported: {heavy}' if heavy else 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
