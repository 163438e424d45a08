"""What a run writes, and output folders with other contents."""

import errno
import os

import pytest
from accelerate import PartialState
from datasets import Dataset, Image

from transformers_groma._jsonl import JsonlLog
from transformers_groma._locks import one_writer
from transformers_groma._output_errors import OutputError
from transformers_groma.evaluation import respondents
from transformers_groma.evaluation.answers import read_predictions
from transformers_groma.evaluation.benchmarks import rec
from transformers_groma.evaluation.loading import load_benchmark
from transformers_groma.evaluation.reports.report import read_results
from transformers_groma.evaluation.runner import evaluate
from transformers_groma.shapes.rows import shapes_dataset

from ..training.rows import training_model, training_processor
from .samples import BOX, caption_row, dataset, files_in, rec_dataset, rec_row


@pytest.fixture(scope="module")
def model():
    return training_model(), training_processor()


def test_evaluate_writes_everything_and_resumes(model, tmp_path, monkeypatch):
    rows = rec_dataset(3)
    settings = {"batch_size": 2, "progress": False, "dataset_name": "data/refcoco", "split": "val"}
    results = evaluate(rec.BENCHMARK, *model, rows, tmp_path, gallery=2, **settings)
    assert results == read_results(tmp_path)
    assert results.complete and results.asked == 3 and results.seconds > 0
    assert {metric.name for metric in rec.METRICS} == set(results.metrics)
    assert results.settings["rows"] == 3 and results.settings["max_new_tokens"] == 3
    assert results.settings["dtype"] == "float32" and results.settings["sources"] == ["refcoco"]
    report = (tmp_path / "results.md").read_text()
    assert "| acc@0.5 |" in report and "| 89.53 |" in report
    assert files_in(tmp_path) == [
        "gallery",
        "gallery.html",
        "iou_histogram.png",
        "predictions.jsonl",
        "results.json",
        "results.md",
    ]
    assert len(list((tmp_path / "gallery").glob("*.png"))) == 2

    # Again: no question, the same metrics, and the time that it took.
    monkeypatch.setattr(respondents, "answer_questions", None)
    again = evaluate(rec.BENCHMARK, *model, rows, tmp_path, **settings)
    assert (again.metrics, again.asked, again.seconds) == (results.metrics, results.asked, results.seconds)


def test_an_unfinished_run_has_settings_and_no_metrics(model, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(respondents, "answer_questions", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate(rec.BENCHMARK, *model, rec_dataset(2), tmp_path, progress=False)
    started = read_results(tmp_path)
    assert not started.complete and started.metrics == {} and started.settings["rows"] == 2
    assert evaluate(rec.BENCHMARK, *model, rec_dataset(2), tmp_path, progress=False).complete


def test_a_folder_of_another_run_says_what_differs(model, tmp_path):
    rows = rec_dataset(2)
    evaluate(rec.BENCHMARK, *model, rows, tmp_path, progress=False)
    with pytest.raises(ValueError, match="`prompt_seed` is None there and 5 now.*another folder"):
        evaluate(rec.BENCHMARK, *model, rows, tmp_path, progress=False, prompt_seed=5)
    with pytest.raises(ValueError, match="`dataset_fingerprint`.*`rows` is 2 there and 1 now"):
        evaluate(rec.BENCHMARK, *model, rows.select([0]), tmp_path, progress=False)
    other = training_model(seed=1)
    with pytest.raises(ValueError, match="`model_sha256`"):
        evaluate(rec.BENCHMARK, other, model[1], rows, tmp_path, progress=False)
    other = training_model()
    other.config.box_score_threshold = 0.3
    with pytest.raises(ValueError, match=r"another run: `box_score_threshold` is 0.0 there and 0.3 now\. "):
        evaluate(rec.BENCHMARK, other, model[1], rows, tmp_path, progress=False)
    # Nothing of it was touched.
    assert read_results(tmp_path).complete
    # Batches may have another size: they do not change answers.
    assert evaluate(rec.BENCHMARK, *model, rows, tmp_path, progress=False, batch_size=1).complete


@pytest.mark.parametrize("name", ["referring-segmentation", "grounded-conversation", "interactive-segmentation"])
def test_masks_need_a_model_that_decodes_them(model, tmp_path, name):
    """Refused before anything is looked at: these rows fit no benchmark of masks."""
    with pytest.raises(ValueError, match=f"^{name} compares masks, and the model has no mask decoder.*train masks"):
        evaluate(load_benchmark(name), *model, rec_dataset(1), tmp_path, progress=False)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "task", "column"),
    [
        ("referring-segmentation", "rec", "target_masks"),
        ("grounded-conversation", "grounded-caption", "masks"),
        ("interactive-segmentation", "detection", "masks"),
        ("detection", "detection", "masks"),
    ],
)
def test_masks_of_another_image_are_found_before_anything_is_asked(tmp_path, name, task, column):
    evaluation = {"evaluation": True} if task == "rec" else {}
    rows = shapes_dataset(task, 2, 0, split="test", image_size=112, **evaluation)
    given = rows.cast_column("image", Image(decode=False)).to_list()
    given[1][column][0]["size"] = [56, 224]
    wrong = Dataset.from_list(given, features=rows.features)
    with pytest.raises(
        ValueError, match=rf"Row 1 .*`{column}\[0\]`: mask has another size than its image: mask 224x56"
    ):
        evaluate(
            load_benchmark(name), training_model(masks=True), training_processor(), wrong, tmp_path, progress=False
        )
    assert files_in(tmp_path) == []


def test_two_runs_cannot_share_a_folder(model, tmp_path, monkeypatch):
    """The second stops before it asks, and what the first has written stays."""
    real, calls = respondents.answer_questions, []

    def meanwhile(*args):
        calls.append(1)
        for rows in (rec_dataset(2), rec_dataset(1)):
            with pytest.raises(OutputError, match=f"^{tmp_path} is being written by another process"):
                evaluate(rec.BENCHMARK, *model, rows, tmp_path, progress=False)
        return real(*args)

    monkeypatch.setattr(respondents, "answer_questions", meanwhile)
    results = evaluate(rec.BENCHMARK, *model, rec_dataset(2), tmp_path, progress=False)
    assert results.complete and len(calls) == 1
    assert not [name for name in files_in(tmp_path) if name.startswith(".")]


def test_processes_of_one_run_can_share_a_folder(model, tmp_path, monkeypatch):
    monkeypatch.setattr(PartialState, "is_main_process", property(lambda state: False))
    # It answers, and then reads the results of the first one, which nobody writes here.
    with one_writer(tmp_path, "evaluate"), pytest.raises(FileNotFoundError, match="results.json"):
        evaluate(rec.BENCHMARK, *model, rec_dataset(1), tmp_path, progress=False)
    assert len(read_predictions(tmp_path)) == 1


def test_a_full_disk_names_the_file_and_keeps_the_answers(model, tmp_path, monkeypatch):
    rows = rec_dataset(3)
    real, calls = JsonlLog._append, []

    def full(log, line):
        calls.append(line)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(log, line)

    with monkeypatch.context() as patch:
        patch.setattr(JsonlLog, "_append", full)
        with pytest.raises(OutputError, match=f"^{tmp_path / 'predictions.jsonl'} cannot be written .No space left"):
            evaluate(rec.BENCHMARK, *model, rows, tmp_path, progress=False, batch_size=1)
    results = evaluate(rec.BENCHMARK, *model, rows, tmp_path, progress=False, batch_size=1)
    assert results.complete and results.asked == 1


def test_answers_without_results_and_results_of_something_else(model, tmp_path):
    (tmp_path / "predictions.jsonl").write_text("")
    with pytest.raises(ValueError, match="without the results.json"):
        evaluate(rec.BENCHMARK, *model, rec_dataset(1), tmp_path, progress=False)
    (tmp_path / "results.json").write_text('{"accuracy": 1}')
    with pytest.raises(ValueError, match="results.json is not of `groma evaluate`"):
        evaluate(rec.BENCHMARK, *model, rec_dataset(1), tmp_path, progress=False)


def test_rows_that_do_not_fit(model, tmp_path):
    with pytest.raises(ValueError, match="do not fit `groma evaluate rec`.*target_boxes_xyxy"):
        evaluate(rec.BENCHMARK, *model, rec_dataset(1).remove_columns("target_boxes_xyxy"), tmp_path)
    with pytest.raises(ValueError, match="no rows"):
        evaluate(rec.BENCHMARK, *model, rec_dataset(1).select([]), tmp_path)
    assert files_in(tmp_path) == []


def test_a_question_without_a_phrase_cannot_be_drawn(model, tmp_path):
    rows = dataset([rec_row(0), caption_row(5, target_boxes_xyxy=[BOX])])
    with pytest.raises(ValueError, match="image '5' cannot be put into other words.*`prompt_seed`"):
        evaluate(rec.BENCHMARK, *model, rows, tmp_path, prompt_seed=0)
    assert files_in(tmp_path) == []
