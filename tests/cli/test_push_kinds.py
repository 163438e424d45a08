"""`groma push` of what is not a model: told from the folder, with its own options, and how to load it."""

from pathlib import Path

import pytest

from transformers_groma.cli import push_contents
from transformers_groma.cli.push_contents import KINDS
from transformers_groma.publishing import kinds
from transformers_groma.shapes.rows import ShapesOptions, write_shapes

from ..hub_client import use_hub
from ..hub_server import LoopbackHub

REPOSITORY = Path(__file__).parents[2]
METRIC = REPOSITORY / "metrics" / "rec_accuracy"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub(user="your-name") as hub:
        use_hub(monkeypatch, hub.url, tmp_path / "home")
        yield hub


@pytest.fixture
def dataset(tmp_path) -> Path:
    write_shapes(ShapesOptions("rec", seed=0), 1, tmp_path / "rows")
    return tmp_path / "rows"


def test_a_dataset_with_its_licence(run, hub, dataset):
    code, out, err = run("push", dataset, "your-name/rows", "--license", "mit", "--tag", "v1")
    assert code == 0, err
    assert out == f"{hub.url}/datasets/your-name/rows/tree/v1\n"
    assert "not pushed: " in err and ".report.json" in err
    assert "use it:   datasets.load_dataset(\"your-name/rows\", revision='v1')" in err
    assert "license: mit" in hub.files("your-name/rows", "dataset", "v1")["README.md"].decode()


def test_a_metric_is_a_static_space(run, hub):
    code, _, err = run("push", METRIC, "your-name/rec_accuracy")
    assert code == 0, err
    assert 'use it:   evaluate.load("your-name/rec_accuracy")' in err
    assert hub.repos["space", "your-name/rec_accuracy"].sdk == "static"


def test_a_space_for_a_model_of_the_hub(run, hub, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = ["push", "org/groma-7b", "your-name/app", "--type", "space", "--private"]
    code, _, err = run(*command)
    assert code == 2 and "there is no model 'org/groma-7b' on the Hub" in err and not hub.repos
    hub.add_repo("org/groma-7b", tmp_path)
    code, _, err = run(*command)
    assert code == 0, err
    repo = hub.repos["space", "your-name/app"]
    assert repo.sdk == "gradio" and repo.private
    assert b'MODEL = "org/groma-7b"' in hub.files("your-name/app", "space")["app.py"]


def test_a_space_of_our_template(run, hub):
    assert run("push", REPOSITORY / "hub_configs" / "space", "your-name/tiny")[0] == 0
    assert b'MODEL = ""' in hub.files("your-name/tiny", "space")["app.py"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["org/groma-7b", "your-name/app"], "is not a folder"),
        (["./org/x/y", "your-name/app", "--type", "space"], "is not a folder"),
        (["{tiny}", "your-name/app", "--type", "space"], "holds a model, and a Space shows one of the Hub"),
        (["{rows}", "your-name/x", "--type", "model"], "config.json"),
        (["{tiny}", "your-name/x", "--type", "dataset"], "has no Parquet files"),
        (["{rows}", "your-name/x", "--remote-code"], "--remote-code is for a model, and this is a dataset"),
        (["{rows}", "your-name/x", "--local-builds"], "--local-builds is for a kernel, and this is a dataset"),
        (["{metric}", "your-name/rec_accuracy", "--license", "mit"], "--license is for a model or dataset"),
        (["{metric}", "your-name/other"], "Push to your-name/rec_accuracy"),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_is_sent(run, hub, dataset, arguments, words):
    places = {"tiny": REPOSITORY / "hub_configs" / "groma-tiny", "rows": dataset, "metric": METRIC}
    code, _, err = run("push", *(argument.format(**places) for argument in arguments))
    assert code == 2 and words in err and len(err.splitlines()) == 1, err
    assert not hub.repos


def test_the_command_and_the_library_know_the_same_kinds():
    assert kinds.KINDS == KINDS
    assert {kind for group in push_contents.KINDS_OF_OPTIONS.values() for kind in group} <= set(KINDS)
