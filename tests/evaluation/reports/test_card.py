"""Metrics in a card: huggingface_hub reads them back, newer ones replace older ones, all else stays."""

import json
import math

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from transformers_groma.evaluation.reports.card import TASKS, add_results_to_card

CARD = """\
---
license: apache-2.0
library_name: transformers
tags:
- groma
custom_key:
  nested: [1, 2]
---

# My Groma

Text with a table:

| a | b |
|---|---|

---
"""


@pytest.fixture
def model_dir(tmp_path):
    folder = tmp_path / "machine" / "my-groma"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def run(tmp_path):
    """Writes the results of a run into a folder of its own."""

    def write(name: str, benchmark: str = "rec", metrics: dict | None = None, complete: bool = True, **settings):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        results = {
            "benchmark": benchmark,
            "metrics": {"acc@0.5": 0.8953} if metrics is None else metrics,
            "settings": {"dataset": "org/refcoco", "split": "val", "rows": 100, **settings},
            "asked": 100,
            "seconds": 1.5,
            "complete": complete,
        }
        (folder / "results.json").write_text(json.dumps(results))
        return folder

    return write


def entries(folder) -> dict[tuple[str, str, str | None, str], float]:
    results = ModelCard.load(folder / "README.md").data.eval_results
    found = {
        (result.task_type, result.dataset_type, result.dataset_split, result.metric_type): result.metric_value
        for result in results
    }
    assert len(found) == len(results)  # none twice
    return found


def test_metrics_are_read_back(model_dir, run):
    metrics = {"acc@0.5": 0.89530001, "mean_iou": 0.8, "missing": 0}
    [readme, _] = add_results_to_card(model_dir, run("a", metrics=metrics) / "results.json")
    assert readme == model_dir / "README.md"
    assert entries(model_dir) == {
        ("referring-expression-comprehension", "org/refcoco", "val", name): value
        for name, value in {"acc@0.5": 0.8953, "mean_iou": 0.8, "missing": 0}.items()
    }
    index = yaml.safe_load(readme.read_text().split("---\n")[1])["model-index"]
    assert [entry["name"] for entry in index] == ["my-groma"]
    [result] = index[0]["results"]
    assert result["dataset"] == {
        "name": "org/refcoco (val)",
        "type": "org/refcoco",
        "split": "val",
        "args": {"rows": 100},
    }
    assert result["source"]["name"] == "transformers-groma"


def test_the_rest_of_the_card_stays(model_dir, run):
    add_results_to_card(model_dir, [run("a")])
    _, metadata, text = (model_dir / "README.md").read_text().split("---\n", 2)
    assert text == CARD.split("---\n", 2)[2]
    written, earlier = yaml.safe_load(metadata), yaml.safe_load(CARD.split("---\n")[1])
    assert list(written) == [*earlier, "model-index"]
    assert all(written[key] == value for key, value in earlier.items())


def test_lines_keep_their_ends(model_dir, run):
    (model_dir / "README.md").write_bytes(CARD.replace("\n", "\r\n").encode())
    add_results_to_card(model_dir, run("a"))
    content = (model_dir / "README.md").read_bytes()
    assert content.count(b"\n") == content.count(b"\r\n") > 20


def test_newer_metrics_replace_older_ones(model_dir, run):
    others = [run("b", split="testA"), run("c", dataset="org/refcocog"), run("d", "detection", {"queries_ap": 0.4})]
    add_results_to_card(model_dir, [run("a", metrics={"acc@0.5": 0.1, "old": 0.2}), *others])
    before = entries(model_dir)
    add_results_to_card(model_dir, run("a", metrics={"acc@0.5": 0.3, "new": 0.4}))
    after = entries(model_dir)
    rec = ("referring-expression-comprehension", "org/refcoco", "val")
    assert {key: value for key, value in after.items() if key[:3] == rec} == {
        (*rec, "acc@0.5"): 0.3,
        (*rec, "new"): 0.4,
    }
    assert {key: value for key, value in after.items() if key[:3] != rec} == {
        key: value for key, value in before.items() if key[:3] != rec
    }
    assert len(after) == 5
    # Once more is no change at all.
    content = (model_dir / "README.md").read_bytes()
    add_results_to_card(model_dir, run("a", metrics={"acc@0.5": 0.3, "new": 0.4}))
    assert (model_dir / "README.md").read_bytes() == content


def test_protocols_do_not_replace_each_other(model_dir, run):
    name, metrics = "referring-segmentation", {"ciou": 0.5, "giou": 0.6}
    release = {"protocol": "glamm-release", "prompt_seed": 0}
    usual, other = run("a", name, metrics, protocol=None), run("b", name, {"ciou": 0.4, "giou": 0.3}, **release)
    paths = add_results_to_card(model_dir, [usual, other])
    assert [path.name for path in paths[1:]] == [
        "referring-segmentation-org-refcoco-val.yaml",
        "referring-segmentation-glamm-release-org-refcoco-val.yaml",
    ]
    tasks = [yaml.safe_load(path.read_text())[0]["dataset"]["task_id"] for path in paths[1:]]
    assert tasks == ["referring-segmentation_val", "referring-segmentation-glamm-release_val"]
    add_results_to_card(model_dir, run("c", name, {"ciou": 0.41}, **release))
    found = [
        (result.dataset_config, (result.dataset_args or {}).get("protocol"), result.metric_type, result.metric_value)
        for result in ModelCard.load(model_dir / "README.md").data.eval_results
    ]
    assert found == [
        (None, None, "ciou", 0.5),
        (None, None, "giou", 0.6),
        ("glamm-release", "glamm-release", "ciou", 0.41),
    ]


def test_metrics_name_the_encoder_of_phrases(model_dir, run):
    add_results_to_card(model_dir, run("a", "grounded-conversation", {"mask_recall": 0.4}, text_similarity="token-F1"))
    [result] = ModelCard.load(model_dir / "README.md").data.eval_results
    assert result.dataset_args == {"rows": 100, "text_similarity": "token-F1"}


def test_metrics_of_others_stay(model_dir, run):
    other = """model-index:
- name: another name
  results:
  - task: {type: image-classification, name: Classes}
    dataset: {type: beans, name: Beans, config: en, revision: abc}
    metrics:
    - {type: accuracy, value: 0.9, verified: true, verifyToken: xyz}
"""
    (model_dir / "README.md").write_text(CARD.replace("license", f"{other}license"))
    add_results_to_card(model_dir, run("a"))
    data = ModelCard.load(model_dir / "README.md").data
    assert data.model_name == "another name"
    [beans, _] = data.eval_results
    assert (beans.metric_value, beans.verify_token, beans.dataset_revision) == (0.9, "xyz", "abc")


def test_every_benchmark_has_a_task_of_its_own(model_dir, run):
    """One dataset may serve several benchmarks: none takes the place of another, and none gets another's name."""
    runs = [run(name, name, {"metric": 0.5}, dataset="org/all") for name in TASKS]
    add_results_to_card(model_dir, runs)
    results = ModelCard.load(model_dir / "README.md").data.eval_results
    assert [(result.task_type, result.task_name) for result in results] == [task[:2] for task in TASKS.values()]


def test_nothing_to_measure_is_not_an_entry(model_dir, run):
    metrics = {"ar": 0.25, "ar_small": -1.0, "odd": math.nan, "ar_large": 0.0}
    add_results_to_card(model_dir, run("a", "lvis-ground", metrics))
    assert {key[-1]: value for key, value in entries(model_dir).items()} == {"ar": 0.25, "ar_large": 0.0}


def test_eval_results_of_the_hub(model_dir, run):
    written = add_results_to_card(model_dir, [run("a"), run("b", split="testA"), run("c", metrics={"mean_iou": 0.5})])
    paths = [path.relative_to(model_dir).as_posix() for path in written]
    # The last run has not the metric that stands for REC, but it is newer than the first in the card.
    assert paths == ["README.md", ".eval_results/rec-org-refcoco-val.yaml", ".eval_results/rec-org-refcoco-testA.yaml"]
    entries = yaml.safe_load((model_dir / paths[1]).read_text())
    assert entries == [
        {
            "dataset": {"id": "org/refcoco", "task_id": "rec_val"},
            "value": 0.8953,
            "source": {
                "url": "https://github.com/transformers-groma/transformers-groma",
                "name": "transformers-groma",
            },
            "notes": "acc@0.5, 100 rows",
        }
    ]
    [entry] = parse_eval_result_entries(entries)
    assert (entry.dataset_id, entry.task_id, entry.value) == ("org/refcoco", "rec_val", 0.8953)


@pytest.mark.parametrize(
    ("setting", "name"),
    [({"limit": 100}, "org/refcoco"), ({"quantization": "4bit"}, "org/refcoco"), ({"local_dataset": True}, "refcoco")],
)
def test_what_does_not_compare_is_not_for_leaderboards(model_dir, run, setting, name):
    """A part of the rows; a quantized model; a folder whose name could be one of the Hub, seen from elsewhere."""
    assert add_results_to_card(model_dir, run("a", **setting)) == [model_dir / "README.md"]
    assert ("referring-expression-comprehension", name, "val", "acc@0.5") in entries(model_dir)
    (result,) = ModelCard.load(model_dir / "README.md").data.eval_results
    assert result.dataset_args.get("quantization") == setting.get("quantization")


def test_local_datasets_are_named_without_their_place(model_dir, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "refcoco").mkdir(parents=True)
    # The second looks like a name on the Hub, but is a folder here.
    for dataset in (str(tmp_path / "data" / "refcoco"), "data/refcoco", "refcoco"):
        written = add_results_to_card(model_dir, run("a", dataset=dataset))
        assert written == [model_dir / "README.md"]
    text = (model_dir / "README.md").read_text()
    assert str(tmp_path) not in text and "data/refcoco" not in text
    assert list(entries(model_dir)) == [("referring-expression-comprehension", "refcoco", "val", "acc@0.5")]


def test_a_folder_without_a_card_gets_one(model_dir, run):
    (model_dir / "README.md").unlink()
    add_results_to_card(model_dir, run("a", split=""))
    card = ModelCard.load(model_dir / "README.md")
    assert card.text.strip() == "# my-groma" and card.data.library_name == "transformers"
    assert list(entries(model_dir)) == [("referring-expression-comprehension", "org/refcoco", None, "acc@0.5")]


def test_mistakes_leave_the_card_alone(model_dir, run, tmp_path):
    other = tmp_path / "other.json"
    other.write_text('{"a": 1}')
    for paths, error, message in (
        ([run("a"), run("b", complete=False)], ValueError, "unfinished run. Start `groma evaluate` again"),
        ([run("a"), run("c", "imagenet")], ValueError, "benchmark 'imagenet'; known are rec, lvis-ground"),
        ([run("a"), run("d", dataset="")], ValueError, "does not name its dataset"),
        ([run("e", metrics={})], ValueError, "has no metrics"),
        ([run("a"), other], ValueError, "other.json is not of `groma evaluate`"),
        ([run("a"), tmp_path / "none.json"], FileNotFoundError, "none.json"),
        ([], ValueError, "`results_paths` is empty"),
    ):
        with pytest.raises(error, match=message):
            add_results_to_card(model_dir, paths)
    assert (model_dir / "README.md").read_text() == CARD and not (model_dir / ".eval_results").exists()
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        add_results_to_card(tmp_path / "nothing", run("a"))


@pytest.mark.parametrize("metadata", ["- a\n- list", "model-index:\n- name: a", "a: [1"])
def test_a_card_that_cannot_be_read(model_dir, run, metadata):
    (model_dir / "README.md").write_text(f"---\n{metadata}\n---\n# Title\n")
    with pytest.raises(ValueError, match="README.md cannot be read"):
        add_results_to_card(model_dir, run("a"))
    assert metadata in (model_dir / "README.md").read_text()
