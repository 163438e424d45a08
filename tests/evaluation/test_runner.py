"""Asking once, going on, several processes, and folders that hold something else."""

import copy
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from tokenizers import normalizers

from transformers_groma._files import OutputError, one_writer
from transformers_groma._jsonl import JsonlLog
from transformers_groma.evaluation import runner
from transformers_groma.evaluation.benchmark import question_of, question_text
from transformers_groma.evaluation.benchmarks import rec
from transformers_groma.evaluation.fingerprints import dataset_fingerprint, model_sha256
from transformers_groma.evaluation.reports.report import read_results
from transformers_groma.evaluation.runner import ChatRespondent, answer_dataset, evaluate, read_predictions

from ..training.rows import training_model, training_processor
from .samples import BOX, Echo, caption_row, dataset, files_in, rec_dataset, rec_row

REPOSITORY = Path(__file__).parents[2]
ROWS = 7


@pytest.fixture(scope="module")
def model():
    return training_model(), training_processor()


@pytest.fixture
def predictions_file(tmp_path) -> Path:
    """Answers of an undisturbed run."""
    folder = tmp_path / "whole"
    answer_dataset(Echo(), rec_dataset(ROWS), folder, batch_size=2, progress=False)
    return folder / "predictions.jsonl"


# ------------------------------------------------------------------------------------------------------------- answers


def test_answers_are_in_the_order_of_the_rows(predictions_file):
    found = [json.loads(line) for line in predictions_file.read_text().splitlines()]
    assert [record["index"] for record in found] == list(range(ROWS))
    assert found[3]["phrases"][0]["boxes_xyxy"] == [[11.0, 11.0, 43.0, 43.0]]
    assert files_in(predictions_file.parent) == ["predictions.jsonl"]


def test_every_answer_is_in_the_file_when_the_next_batch_is_asked(tmp_path):
    class Watching(Echo):
        def answer(self, prepared):
            assert sorted(read_predictions(tmp_path)) == sorted(self.asked)
            return super().answer(prepared)

    respondent = Watching()
    answer_dataset(respondent, rec_dataset(ROWS), tmp_path, batch_size=2, progress=False)
    assert respondent.asked == list(range(ROWS))


@pytest.mark.parametrize("fail_at", [0, 1, 4, 6])
@pytest.mark.parametrize("cut", [0, 1, 40])
def test_a_killed_run_goes_on_and_asks_nothing_twice(tmp_path, predictions_file, fail_at, cut):
    rows = rec_dataset(ROWS)
    with pytest.raises(KeyboardInterrupt):
        answer_dataset(Echo(fail_at), rows, tmp_path / "cut", batch_size=2, progress=False)
    path = tmp_path / "cut" / "predictions.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: max(len(content) - cut, 0)])
    kept = sorted(read_predictions(tmp_path / "cut"))
    # A line is an answer or it is not there; a missing line break does no harm.
    assert len(kept) >= fail_at // 2 * 2 - (cut > 1)
    second = Echo()
    answer_dataset(second, rows, tmp_path / "cut", batch_size=3, progress=False)
    assert sorted(second.asked + kept) == list(range(ROWS))
    assert path.read_bytes() == predictions_file.read_bytes()


def test_a_finished_run_asks_nothing(tmp_path):
    rows = rec_dataset(3)
    answer_dataset(Echo(), rows, tmp_path, progress=False)
    again = Echo()
    found = answer_dataset(again, rows, tmp_path, progress=False)
    assert again.asked == [] and [prediction.index for prediction in found] == [0, 1, 2]


def test_parts_of_earlier_processes_are_taken_in(tmp_path, predictions_file):
    lines = predictions_file.read_text().splitlines(keepends=True)
    (tmp_path / "predictions.jsonl").write_text(lines[5])
    (tmp_path / "predictions-00000-of-00002.jsonl").write_text("".join(lines[0:2]))
    (tmp_path / "predictions-00001-of-00002.jsonl").write_text(lines[2] + lines[3][:20])
    respondent = Echo()
    answer_dataset(respondent, rec_dataset(ROWS), tmp_path, batch_size=2, progress=False)
    assert sorted(respondent.asked) == [3, 4, 6]
    assert (tmp_path / "predictions.jsonl").read_bytes() == predictions_file.read_bytes()
    assert "predictions-00000-of-00002.jsonl" not in files_in(tmp_path)


def test_two_processes_write_what_one_does(tmp_path, predictions_file):
    """This module is also the program of both."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*command, "-m", "tests.evaluation.test_runner", str(tmp_path / "two")],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    folder = tmp_path / "two"
    asked = [json.loads((folder / f"asked-{rank}.json").read_text()) for rank in range(2)]
    assert asked == [[0, 1, 4, 5], [2, 3, 6]]
    assert (folder / "predictions.jsonl").read_bytes() == predictions_file.read_bytes()
    assert files_in(folder) == ["asked-0.json", "asked-1.json", "predictions.jsonl"]


def main(folder: Path) -> None:
    """What each of two processes does."""
    respondent = Echo()
    found = answer_dataset(respondent, rec_dataset(ROWS), folder, batch_size=2, progress=False)
    assert [prediction.index for prediction in found] == list(range(ROWS))
    (folder / f"asked-{PartialState().process_index}.json").write_text(json.dumps(respondent.asked))
    torch.distributed.destroy_process_group()


def test_bad_arguments_and_files(tmp_path):
    rows = rec_dataset(2)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        answer_dataset(Echo(), rows, tmp_path, batch_size=0)
    (tmp_path / "predictions.jsonl").write_text('{"index": 0}\n')
    with pytest.raises(ValueError, match=r"predictions.jsonl, record 1 is not an answer \(KeyError"):
        answer_dataset(Echo(), rows, tmp_path, progress=False)
    (tmp_path / "predictions.jsonl").unlink()
    answer_dataset(Echo(), rec_dataset(3), tmp_path, progress=False)
    with pytest.raises(ValueError, match="answers to rows that the dataset has not"):
        answer_dataset(Echo(), rows, tmp_path, progress=False)


def test_too_large_a_batch_keeps_answers(tmp_path):
    class Small(Echo):
        def answer(self, prepared):
            if self.asked:
                raise torch.OutOfMemoryError
            return super().answer(prepared)

    with pytest.raises(ValueError, match="batch of 2 rows.*smaller `batch_size`"):
        answer_dataset(Small(), rec_dataset(4), tmp_path, batch_size=2, progress=False)
    assert sorted(read_predictions(tmp_path)) == [0, 1]


def test_a_broken_image_names_its_row(tmp_path):
    broken = dataset([rec_row(0), rec_row(1, image={"bytes": b"no image", "path": None})])
    with pytest.raises(ValueError, match="image of row 1 cannot be read"):
        answer_dataset(Echo(), broken, tmp_path, batch_size=1, progress=False)


# ------------------------------------------------------------------------------------------------------------- a model


def test_batches_answer_as_single_rows_do(model, tmp_path):
    rows = dataset([rec_row(0), caption_row(1), rec_row(2), caption_row(3), rec_row(4)])
    found = [
        answer_dataset(
            ChatRespondent(*model, rec.BENCHMARK, max_new_tokens=12),
            rows,
            tmp_path / str(batch_size),
            batch_size=batch_size,
            progress=False,
        )
        for batch_size in (1, 3)
    ]
    for single, batched in zip(*found, strict=True):
        assert (single.index, single.image_id, single.markup) == (batched.index, batched.image_id, batched.markup)
        assert len(single.phrases) == len(batched.phrases)
        for one, other in zip(single.phrases, batched.phrases, strict=True):
            assert one.text == other.text
            torch.testing.assert_close(torch.tensor(one.boxes_xyxy), torch.tensor(other.boxes_xyxy), atol=0.01, rtol=0)


def test_evaluate_writes_everything_and_goes_on(model, tmp_path, monkeypatch):
    rows = rec_dataset(3)
    settings = {"batch_size": 2, "progress": False, "dataset_name": "data/refcoco", "split": "val"}
    results = evaluate(rec.BENCHMARK, *model, rows, tmp_path, gallery=2, **settings)
    assert results == read_results(tmp_path)
    assert results.complete and results.asked == 3 and results.seconds > 0
    assert {figure.name for figure in rec.FIGURES} == set(results.metrics)
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

    # Again: no question, the same figures, and the time that it took.
    monkeypatch.setattr(runner, "answer_questions", None)
    again = evaluate(rec.BENCHMARK, *model, rows, tmp_path, **settings)
    assert (again.metrics, again.asked, again.seconds) == (results.metrics, results.asked, results.seconds)


def test_a_run_that_is_not_done_has_settings_and_no_figures(model, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner, "answer_questions", interrupted)
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


def test_two_runs_write_no_folder_together(model, tmp_path, monkeypatch):
    """The second stops before it asks, and what the first has written stays."""
    real, calls = runner.answer_questions, []

    def meanwhile(*args):
        calls.append(1)
        for rows in (rec_dataset(2), rec_dataset(1)):
            with pytest.raises(OutputError, match=f"^{tmp_path} is being written by another process"):
                evaluate(rec.BENCHMARK, *model, rows, tmp_path, progress=False)
        return real(*args)

    monkeypatch.setattr(runner, "answer_questions", meanwhile)
    results = evaluate(rec.BENCHMARK, *model, rec_dataset(2), tmp_path, progress=False)
    assert results.complete and len(calls) == 1
    assert not [name for name in files_in(tmp_path) if name.startswith(".")]


def test_processes_of_one_run_do_not_hinder_one_another(model, tmp_path, monkeypatch):
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


def test_answers_of_nobody_and_foreign_results(model, tmp_path):
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


# ------------------------------------------------------------------------------------------------------------- prompts


def test_rows_keep_their_question_without_a_seed():
    row = rec_row()
    assert question_of(row, "rec")["messages"] == row["messages"]


def test_a_seed_draws_other_words_for_the_same_things():
    texts = {question_text(question_of(rec_row(), "rec", seed)) for seed in range(20)}
    assert len(texts) > 3 and all("the red square" in text for text in texts)
    region = question_of(caption_row(), "region_caption", 0)["messages"][-1]["content"]
    assert [part["boxes"] for part in region if part["type"] == "region"] == [[0]]
    assert region[0]["type"] == "image"
    # By what is asked about, not by where the row is.
    assert question_of(rec_row(), "rec", 3) == question_of(rec_row(), "rec", 3)


def test_a_question_without_a_phrase_cannot_be_drawn(model, tmp_path):
    rows = dataset([rec_row(0), caption_row(5, target_boxes_xyxy=[BOX])])
    with pytest.raises(ValueError, match="image '5' cannot be put into other words.*`prompt_seed`"):
        evaluate(rec.BENCHMARK, *model, rows, tmp_path, prompt_seed=0)
    assert files_in(tmp_path) == []


def test_the_answer_of_a_row_is_not_shown():
    row = rec_row()
    row["messages"] = [*row["messages"], {"role": "assistant", "content": []}]
    assert [message["role"] for message in question_of(row)["messages"]] == ["user"]


# -------------------------------------------------------------------------------------------------------- fingerprints


def test_fingerprints_tell_content_and_nothing_else(model, tmp_path):
    rows = rec_dataset(3)
    rows.to_parquet(tmp_path / "rows.parquet")
    read = type(rows).from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    assert dataset_fingerprint(read) == dataset_fingerprint(rows)
    changed = dataset([rec_row(0), rec_row(1), rec_row(2, target_boxes_xyxy=[[8.0, 8.0, 40.0, 41.0]])])
    image = dataset([rec_row(0), rec_row(1), rec_row(2, image=rec_row(9)["image"])])
    assert len({dataset_fingerprint(each) for each in (rows, changed, image)}) == 3

    same, other = training_model(), training_model()
    other.config.nms_threshold = 0.9  # a setting of its own
    with torch.no_grad():
        same.lm_head.weight[0, 0] += 1
    assert model_sha256(other, model[1]) == model_sha256(*model) != model_sha256(same, model[1])


def test_everything_that_makes_answers_is_in_the_fingerprint(model):
    """Also what is neither a weight nor in the vocabulary."""

    def changed_generation(model, processor):
        model.generation_config.repetition_penalty = 1.5

    def changed_config(model, processor):
        model.config.max_regions += 1

    def changed_template(model, processor):
        processor.chat_template += " "

    def changed_image_processor(model, processor):
        processor.image_processor.image_mean = [0.0, 0.0, 0.0]

    def changed_normalizer(model, processor):
        processor.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()

    def changed_special_token(model, processor):
        processor.tokenizer.eos_token = "<unk>"

    def added_token(model, processor):
        processor.tokenizer.add_tokens(["new"])

    found = {model_sha256(*model)}
    changes = (
        changed_generation,
        changed_config,
        changed_template,
        changed_image_processor,
        changed_normalizer,
        changed_special_token,
        added_token,
    )
    for change in changes:
        other, processor = training_model(), copy.deepcopy(model[1])
        # Padding and truncation are those of the last call.
        processor.tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
        assert model_sha256(other, processor) == model_sha256(*model)
        change(other, processor)
        found.add(model_sha256(other, processor))
    assert len(found) == len(changes) + 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
