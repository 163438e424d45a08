"""Rows are asked once, interrupted runs resume, several processes write what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState

from transformers_groma.evaluation.answers import answer_dataset, read_predictions

from .samples import Echo, dataset, files_in, rec_dataset, rec_row

REPOSITORY = Path(__file__).parents[2]
ROWS = 7


@pytest.fixture
def predictions_file(tmp_path) -> Path:
    """Answers of an undisturbed run."""
    folder = tmp_path / "whole"
    answer_dataset(Echo(), rec_dataset(ROWS), folder, batch_size=2, progress=False)
    return folder / "predictions.jsonl"


def test_answers_are_in_the_order_of_the_rows(predictions_file):
    found = [json.loads(line) for line in predictions_file.read_text().splitlines()]
    assert [record["index"] for record in found] == list(range(ROWS))
    assert found[3]["phrases"][0]["boxes_xyxy"] == [[11.0, 11.0, 43.0, 43.0]]
    assert files_in(predictions_file.parent) == ["predictions.jsonl"]


def test_rows_about_one_image_are_asked_together_and_kept_in_their_order(tmp_path):
    rows = dataset([rec_row(index, image_id=image) for index, image in enumerate("abab")])
    respondent = Echo()
    found = answer_dataset(respondent, rows, tmp_path, batch_size=2, progress=False)
    assert respondent.asked == [0, 2, 1, 3] and [prediction.index for prediction in found] == [0, 1, 2, 3]
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1, 2, 3]


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
def test_an_interrupted_run_resumes_and_asks_nothing_twice(tmp_path, predictions_file, fail_at, cut):
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
    again, written = Echo(), (tmp_path / "predictions.jsonl").stat()
    found = answer_dataset(again, rows, tmp_path, progress=False)
    assert (tmp_path / "predictions.jsonl").stat() == written  # and writes nothing
    assert again.asked == [] and [prediction.index for prediction in found] == [0, 1, 2]


@pytest.mark.parametrize("progress", [False, True])
def test_a_bar_counts_rows_on_demand(tmp_path, capsys, progress):
    answer_dataset(Echo(), rec_dataset(3), tmp_path, batch_size=2, progress=progress, description="captions")
    shown = capsys.readouterr().err
    assert ("captions" in shown and "3/3" in shown) if progress else not shown


def test_parts_of_earlier_processes_are_merged(tmp_path, predictions_file):
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
        [*command, "-m", "tests.evaluation.test_answers", str(tmp_path / "two")],
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
    with pytest.raises(ValueError, match="answers to rows that the dataset lacks"):
        answer_dataset(Echo(), rows, tmp_path, progress=False)


def test_a_batch_that_is_too_large_keeps_earlier_answers(tmp_path):
    class Small(Echo):
        def answer(self, prepared):
            if self.asked:
                raise torch.OutOfMemoryError
            return super().answer(prepared)

    with pytest.raises(ValueError, match="batch of 2 rows.*smaller `batch_size`"):
        answer_dataset(Small(), rec_dataset(4), tmp_path, batch_size=2, progress=False)
    assert sorted(read_predictions(tmp_path)) == [0, 1]


def test_answers_of_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="`output_dir` .*missing is not a folder"):
        read_predictions(tmp_path / "missing")
    assert read_predictions(tmp_path) == {}
    # A run makes its folder when it has its first answer.
    assert len(answer_dataset(Echo(), rec_dataset(2), tmp_path / "missing", progress=False)) == 2


def test_a_broken_image_names_its_row(tmp_path):
    broken = dataset([rec_row(0), rec_row(1, image={"bytes": b"no image", "path": None})])
    with pytest.raises(ValueError, match="image of row 1 cannot be read"):
        answer_dataset(Echo(), broken, tmp_path, batch_size=1, progress=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
