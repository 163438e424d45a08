"""`groma evaluate zero-shot`: the printed table, its own options, and what is refused in one sentence."""

import json
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Image

from transformers_groma import cli
from transformers_groma.cli import evaluate_zero_shot as command
from transformers_groma.evaluation.classification import published_accuracy
from transformers_groma.evaluation.classification.published_accuracy import PUBLISHED
from transformers_groma.evaluation.classification.table_options import TableOptions
from transformers_groma.zero_shot.methods import METHODS
from transformers_groma.zero_shot.released_protocol import POOL_SIZE, REPEATS
from transformers_groma.zero_shot.view_sources import VIEW_SOURCES

from ..evaluation.classification.samples import CASES, golden_case, image_folder, noise

ENCODER = CASES / "clip_b2_c4" / "model"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Eleven images of four classes, and the files of texts."""
    folder = tmp_path_factory.mktemp("zero-shot")
    image_folder(folder / "images")
    case = golden_case()
    for name, key in (("cupl", "descriptions"), ("dclip", "clip_d"), ("templates", "clip_e")):
        (folder / f"{name}.json").write_text(json.dumps(case[key]))
    return folder


@pytest.fixture
def evaluate(run, data, tmp_path):
    def evaluate(*arguments, dataset=data / "images"):
        return run(
            *("evaluate", "zero-shot", "--dataset", dataset, "--output", tmp_path / "out", "--encoder", ENCODER),
            *("--device", "cpu", *arguments),
        )

    return evaluate


def table_of(out: str) -> list[str]:
    return [line.split("  ")[0].strip() for line in out.splitlines()]


def test_one_command_prints_the_table(evaluate, data, tmp_path, monkeypatch):
    monkeypatch.setattr(published_accuracy, "CLASSES", {"pets": 4})
    texts = ("--descriptions", data / "cupl.json", "--dclip-descriptions", data / "dclip.json")
    few = ("--view-count", 3, "--seeds", 2)
    code, out, err = evaluate(
        *texts, "--templates", data / "templates.json", *few, "--published", "pets", "--gallery", 1
    )
    assert code == 0, err
    assert table_of(out) == [
        "method",
        "one template (CLIP)",
        "several templates (CLIP-E)",
        "phrases (CLIP-D)",
        "random texts (Waffle)",
        "sentences (CuPL)",
        "WCA, random views, the paper's score",
    ]
    assert "89.89 ± 0.09" in out.splitlines()[-1] and " ± " not in out.splitlines()[1]
    assert "11 images of 4 classes" in err and "results.json" in err
    settings = json.loads((tmp_path / "out" / "results.json").read_text())["settings"]
    assert (settings["rows"], settings["seeds"], settings["view_count"]) == (11, 2, 3)


def test_what_lacks_a_file_is_said_in_a_line(evaluate):
    code, out, err = evaluate("--view-count", 2, "--seeds", 1)
    assert code == 0, err
    assert "the method 'cupl' did not run: it needs sentences by class" in err
    assert "WCA, random views, of templates, the paper's score" in table_of(out)


def test_regions_are_proposed_by_a_model(evaluate, tiny_dir):
    code, out, err = evaluate("--methods", "wca", "--views", "regions,both", "--view-count", 2, "--model", tiny_dir)
    assert code == 0, err
    assert [line for line in table_of(out) if "regions" in line] == [
        "WCA, views of regions, of templates, the paper's score",
        "WCA, random views and regions, of templates, the paper's score",
    ]


def test_the_released_protocol(evaluate, tmp_path):
    arguments = ("--methods", "wca", "--protocol", "released", "--pool", 4, "--draws", 5, "--view-count", 3)
    code, out, err = evaluate(*arguments)
    assert code == 0, err
    assert table_of(out)[1] == "WCA, random views, of templates, the released score"
    results = json.loads((tmp_path / "out" / "per_class.json").read_text())
    assert len(results["top1_of_repeats"]["wca-random-released"]) == 5


def test_columns_and_classes(evaluate, tmp_path):
    features = Features({"photo": Image(), "kind": ClassLabel(names=["n1", "n2", "n3"])})
    rows = {"photo": [noise(index) for index in range(5)], "kind": [0, 1, 2, None, 1]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / "val.parquet")
    (tmp_path / "labels.txt").write_text("cat\nred_fox\ndog\n")
    (tmp_path / "some.json").write_text('["cat", "red fox"]')
    code, _, err = evaluate(
        *("--labels", tmp_path / "labels.txt", "--only-labels", tmp_path / "some.json", "--methods", "template"),
        dataset=f"{tmp_path / 'data'}@val",
    )
    assert code == 0, err
    assert "3 images of 2 classes" in err and "1 left out, row without a label: row 3" in err
    assert "1 left out, image of a class that was not chosen: row 2" in err
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["cat", "red fox", "red fox"]
    code, _, err = evaluate("--label-column", "photo", dataset=f"{tmp_path / 'data'}@val")
    assert code == 2 and "--label-column 'photo' is of the type image, which holds no labels" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pool", "9"), "--pool is of --protocol released: leave it out"),
        (("--methods", "template", "--views", "grid"), "--views is of wca, which is not among the --methods"),
        (("--methods", "template", "--seed", "1"), "--seed is of random views and texts, and there are none"),
        (("--views", "grid", "--protocol", "released"), "--protocol is of random views, and there are none"),
        (("--views", "grid", "--model", "x"), "--model is of the model that proposes regions, and no --views ask it"),
        (("--methods", "wca", "--protocol", "released", "--seeds", "2"), "--seeds is not of --protocol released"),
        (("--methods", "ensemble", "--descriptions", "x.json"), "--descriptions is of cupl and wca"),
        (("--methods", "cupl", "--templates", "x.json"), "--templates is of ensemble"),
        (("--published", "cub", "--limit", "3"), "--published is for runs on all images"),
        (
            ("--published", "pets"),
            "--published pets: the accuracies of 'pets' are of 37 classes, and this",
        ),
        (("--published", "mnist"), "invalid choice: 'mnist'"),
        (("--methods", "wca,clip"), "'clip' must be one or several of template,ensemble,dclip,waffle,cupl,wca"),
        (("--views", "grid,grid"), "'grid,grid' names one twice"),
        (("--bounds", "0.9,0.5"), "'0.9,0.5' must be two shares above 0"),
        (("--methods", "cupl"), "the method 'cupl' cannot run: it needs sentences by class"),
        (("--encoder-revision", "main"), "--encoder-revision is of encoders on the Hub"),
        (("--descriptions", "no.json"), "--descriptions: no.json does not exist"),
        (("--judge", "gpt"), "--judge is of the other benchmarks: leave it out for zero-shot"),
        (("--card", "x"), "--card is of the other benchmarks"),
    ],
)
def test_refused_in_one_sentence(evaluate, arguments, message):
    code, out, err = evaluate(*arguments)
    lines = [line for line in err.splitlines() if not line.startswith("11 images")]
    assert (code, out) == (2, "") and len(lines) == 1 and message in lines[0], err


def test_a_model_that_is_not_a_dual_encoder(run, data, tmp_path, tiny_dir):
    code, _, err = run(
        *("evaluate", "zero-shot", "--dataset", data / "images", "--output", tmp_path / "out", "--encoder", tiny_dir)
    )
    assert code == 2 and "is not a dual encoder" in err


def test_several_processes_are_refused(evaluate, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = evaluate()
    assert code == 2 and "zero-shot runs in one process" in err


def test_it_is_written_first(run, tmp_path):
    code, _, err = run("evaluate", "--dataset", "x", "zero-shot", "--output", tmp_path)
    assert code == 2 and "zero-shot has options of its own, so it is written first: groma evaluate zero-shot" in err
    code, _, err = run("evaluate", "rec", "--dataset", "x", "--output", tmp_path, "--descriptions", "x.json")
    assert code == 2 and "--descriptions is of zero-shot, which is written first: groma evaluate zero-shot" in err


def test_help(capsys):
    assert cli.main(["evaluate", "zero-shot", "--help"]) == 0
    text = capsys.readouterr().out
    assert "groma evaluate zero-shot" in text and "--descriptions" in text and "--judge" not in text


def test_repeated_names_are_those_of_the_modules():
    assert tuple(METHODS) == command.METHODS and tuple(PUBLISHED) == command.PUBLISHED
    assert command.VIEW_KINDS == VIEW_SOURCES
    assert (TableOptions().seeds, POOL_SIZE, REPEATS) == (command.SEEDS, command.POOL, command.DRAWS)
    assert TableOptions().view_count == command.VIEW_COUNT
