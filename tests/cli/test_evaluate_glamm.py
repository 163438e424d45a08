"""`groma evaluate` with a GLaMM, from the folder of the model to its card."""

import json

import pytest
from huggingface_hub import ModelCard

from transformers_groma import cli
from transformers_groma.evaluation.metrics import cider_meteor
from transformers_groma.evaluation.metrics.ptb_tokenizer import JavaMissingError
from transformers_groma.shapes.rows import ShapesOptions, write_shapes

from ..evaluation.glamm_samples import save_glamm
from ..training.rows import save_training_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A GLaMM, a Groma with masks, and rows for both kinds of benchmark."""
    folder = tmp_path_factory.mktemp("glamm")
    save_glamm(folder / "glamm")
    save_training_model(folder / "groma", masks=True)
    write_shapes(ShapesOptions("rec", 0, "test", evaluation=True, image_size=112), 3, folder / "rec")
    write_shapes(ShapesOptions("grounded-caption", 0, "test", questions=1, image_size=112), 3, folder / "captions")
    return folder


@pytest.fixture
def evaluate(folders, capsys, monkeypatch):
    def missing():
        raise JavaMissingError("There is no Java.")

    monkeypatch.setattr(cider_meteor, "require_java", missing)

    def evaluate(benchmark: str, output, *more, model: str = "glamm", dataset: str = "captions"):
        capsys.readouterr()
        command = ["evaluate", benchmark, "--model", folders / model, "--dataset", folders / dataset]
        command += ["--output", output, "--device", "cpu", "--batch-size", "2", *more]
        code = cli.main([str(word) for word in command])
        return code, *capsys.readouterr()

    return evaluate


def test_a_protocol_of_the_release_into_the_card(evaluate, folders, tmp_path):
    (tmp_path / "card").mkdir()
    code, out, err = evaluate(
        "referring-segmentation",
        tmp_path / "out",
        *("--protocol", "glamm-release", "--gallery", "2", "--card", tmp_path / "card"),
        dataset="rec",
    )
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()] == ["ciou", "giou"]
    settings = json.loads((tmp_path / "out" / "results.json").read_text())["settings"]
    assert settings["protocol"] == "glamm-release" and settings["nms_threshold"] is None
    assert "as GLaMM's released script measures it" in (tmp_path / "out" / "results.md").read_text()
    results = ModelCard.load(tmp_path / "card" / "README.md").data.eval_results
    assert {result.metric_type for result in results} == {"ciou", "giou"}
    assert {result.dataset_config for result in results} == {"glamm-release"}


def test_answers_of_two_families_never_share_a_folder(evaluate, tmp_path):
    more = ("--max-new-tokens", "6")
    code, _, err = evaluate("grounded-conversation", tmp_path, *more)
    assert code == 0, err
    before = (tmp_path / "predictions.jsonl").read_bytes()
    code, _, err = evaluate("grounded-conversation", tmp_path, *more, model="groma")
    assert code == 2 and "holds another run: `model_sha256` is" in err
    assert (tmp_path / "predictions.jsonl").read_bytes() == before
    code, _, err = evaluate("grounded-conversation", tmp_path, *more)  # its own run is only scored again
    assert code == 0, err
    assert (tmp_path / "predictions.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("benchmark", "more", "model", "words"),
    [
        ("rec", (), "glamm", "holds a model of type 'glamm': pass one of type 'groma'"),
        ("phrase-grounding", ("--protocol", "given-caption"), "groma", "pass one of type 'glamm'"),
        ("phrase-grounding", ("--protocol", "glamm-release"), "glamm", "It has 'given-caption'; leave it out"),
        ("grounded-conversation", ("--nms-threshold", "0.5"), "glamm", "`nms_threshold` is of models that propose"),
        ("grounded-conversation", ("--box-score-threshold", "0"), "glamm", "`box_score_threshold` is of models that"),
        ("grounded-conversation", ("--prompt-seed", "1"), "glamm", "`prompt_seed` draws from wordings that Groma"),
    ],
)
def test_what_does_not_fit_the_family_is_one_line(evaluate, tmp_path, benchmark, more, model, words):
    code, out, err = evaluate(benchmark, tmp_path / "out", *more, model=model)
    assert code == 2 and not out and words in err.splitlines()[-1], err
    assert not (tmp_path / "out" / "predictions.jsonl").exists()
