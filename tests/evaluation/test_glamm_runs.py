"""Runs of every benchmark with a GLaMM: from the question to the gallery, killed and resumed, never mixed."""

import itertools

import pytest

from transformers_groma.evaluation.loading import load_benchmark
from transformers_groma.evaluation.metrics import cider_meteor
from transformers_groma.evaluation.metrics.ptb_tokenizer import JavaMissingError
from transformers_groma.evaluation.reports.report import read_results
from transformers_groma.evaluation.respondents import ChatRespondent
from transformers_groma.evaluation.runner import evaluate, read_predictions
from transformers_groma.shapes.rows import shapes_dataset

from ..training.rows import training_model, training_processor
from .glamm_samples import glamm_model, glamm_processor
from .samples import files_in

RUNS = [
    *itertools.product(
        ("grounded-conversation", "referring-segmentation", "region-caption"), (None, "glamm-release", "glamm-paper")
    ),
    ("phrase-grounding", None),
    ("phrase-grounding", "given-caption"),
    ("grounded-caption", None),
]
TASKS = {"referring-segmentation": "rec", "region-caption": "region-caption"}


@pytest.fixture(autouse=True)
def without_java(monkeypatch):
    def missing():
        raise JavaMissingError("There is no Java.")

    monkeypatch.setattr(cider_meteor, "require_java", missing)


@pytest.fixture(scope="module")
def model():
    return glamm_model(), glamm_processor()


def rows_of(benchmark: str, count: int = 3):
    """Scenes with what a benchmark asks about."""
    if task := TASKS.get(benchmark):
        return shapes_dataset(task, count, 0, split="test", evaluation=True, image_size=112)
    return shapes_dataset("grounded-caption", count, 0, split="test", questions=1, image_size=112)


@pytest.mark.parametrize(("name", "protocol"), RUNS, ids=lambda value: str(value))
def test_from_the_question_to_the_gallery(model, name, protocol, tmp_path):
    benchmark = load_benchmark(name, protocol)
    rows = rows_of(name)
    results = evaluate(benchmark, *model, rows, tmp_path, batch_size=2, max_new_tokens=12, progress=False, gallery=2)
    wanted = {metric.name for metric in benchmark.metrics} - {"meteor"}
    assert set(results.metrics) == wanted and results.complete
    assert results.settings["protocol"] == protocol and results.settings["box_score_threshold"] is None
    assert {"predictions.jsonl", "results.json", "results.md", "gallery.html", "gallery"} <= set(files_in(tmp_path))
    kept = read_predictions(tmp_path)
    # From the file of answers alone, the same metrics.
    prepared = benchmark.prepare(rows).rows
    assert benchmark.score([kept[index] for index in range(len(prepared))], prepared) == results.metrics
    if benchmark.asking.masks or protocol == "given-caption":
        assert all(mask["size"] == [112, 112] for answer in kept.values() for mask in answer.all_masks)
        assert "its masks outlined" in (tmp_path / "gallery.html").read_text()


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("grounded-conversation", "glamm-release"),
        ("referring-segmentation", "glamm-release"),
        ("region-caption", None),
    ],
)
def test_a_killed_run_resumes_where_it_was(model, name, protocol, tmp_path, monkeypatch):
    """The answers before are not asked again, and the whole is that of a run that never stopped."""
    benchmark, rows = load_benchmark(name, protocol), rows_of(name, 5)
    options = {"batch_size": 2, "max_new_tokens": 8, "progress": False}
    whole = evaluate(benchmark, *model, rows, tmp_path / "whole", **options)
    respondent = type(benchmark.respondent(*model, benchmark.asking))
    answer, asked = respondent.answer, []

    def killed(self, prepared):
        if len(asked) == 1:
            raise KeyboardInterrupt
        asked.append(answer(self, prepared))
        return asked[-1]

    with monkeypatch.context() as patch:
        patch.setattr(respondent, "answer", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(benchmark, *model, rows, tmp_path / "killed", **options)
    assert not read_results(tmp_path / "killed").complete and len(read_predictions(tmp_path / "killed")) == 2
    resumed = evaluate(benchmark, *model, rows, tmp_path / "killed", **options)
    assert resumed.asked == len(rows) - 2 and resumed.metrics == whole.metrics
    lines = [(tmp_path / folder / "predictions.jsonl").read_text() for folder in ("whole", "killed")]
    assert lines[0] == lines[1]


def test_families_never_share_a_folder(model, tmp_path):
    benchmark, rows = load_benchmark("referring-segmentation"), rows_of("referring-segmentation", 2)
    groma = training_model(masks=True), training_processor()
    evaluate(benchmark, *groma, rows, tmp_path, progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match="holds another run: .*`model_sha256` is"):
        evaluate(benchmark, *model, rows, tmp_path, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("name", ["rec", "lvis-ground", "detection", "interactive-segmentation"])
def test_benchmarks_of_region_proposals_refuse_it(model, name, tmp_path):
    with pytest.raises(ValueError, match=f"{name} measures models of type 'groma'.*, and this one is 'glamm'"):
        evaluate(load_benchmark(name), *model, rows_of("referring-segmentation", 1), tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_seed_for_the_wording_is_refused_before_any_row_is_asked(model, tmp_path, monkeypatch):
    monkeypatch.setattr(ChatRespondent, "answer", None)
    with pytest.raises(ValueError, match="`prompt_seed` draws from wordings that Groma learns"):
        rows = rows_of("region-caption", 1)
        evaluate(load_benchmark("region-caption"), *model, rows, tmp_path, prompt_seed=1, progress=False)
    # Where the true answers are given, it draws their wordings.
    rows, release = rows_of("referring-segmentation", 2), load_benchmark("referring-segmentation", "glamm-release")
    results = evaluate(release, *model, rows, tmp_path / "release", prompt_seed=7, progress=False)
    assert results.settings["prompt_seed"] == 7
