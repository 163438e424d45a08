"""Answers to dataset rows: each row is asked once, and its answer is kept in a folder.

`predictions.jsonl` has a line for each answer, written as soon as it is there, so an interrupted run resumes. Rows
about the same image are asked together, because a batch encodes it once. Under `accelerate launch` or `torchrun` each
process answers its share of the batches into a file of its own; at the end these become one file, in the order of the
rows.
"""

import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from tqdm.auto import tqdm

from .._jsonl import JsonlLog, read_jsonl, write_jsonl
from .._run_ahead import run_ahead
from .benchmark import Respondent
from .predictions import Prediction

PREDICTIONS_NAME = "predictions.jsonl"
PARTS_PATTERN = "predictions-*-of-*.jsonl"
# Batches prepared while the model is at work on another.
BATCHES_AHEAD = 2
# Processes wait for the slowest one, and then for the metrics; the usual ten minutes would end a long run.
LONGEST_WAIT = datetime.timedelta(days=7)


def process_state(device: str | torch.device | None = None) -> PartialState:
    """This process's rank and the number of processes.

    Args:
        device (`str` or `torch.device`, *optional*): where models will run; the accelerator by default, if there is
            one.

    Returns:
        `PartialState`: one process, unless `accelerate launch` or `torchrun` started more.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    on_cpu = accelerator is None if device is None else torch.device(device).type == "cpu"
    return PartialState(cpu=on_cpu, timeout=LONGEST_WAIT)


def answer_dataset(
    respondent: Respondent,
    dataset: Dataset,
    output_dir: str | os.PathLike,
    *,
    batch_size: int = 16,
    progress: bool = True,
    description: str = "answers",
) -> list[Prediction]:
    """Answer the rows of a dataset that have no answer in a folder yet.

    Args:
        respondent (`Respondent`): answers them.
        dataset (`Dataset`): rows with an image.
        output_dir (`str` or `Path`): folder of `predictions.jsonl`. Answers in it must come from the same respondent
            and dataset; `runner.evaluate` makes sure of that.
        batch_size (`int`): rows at a time. It changes answers by no more than rounding.
        progress (`bool`): whether to show a progress bar.
        description (`str`): text beside the bar.

    Returns:
        `list[Prediction]`: one a row, in order. Each process gets the answers of all.

    Raises:
        ValueError: `batch_size` is not positive or too large for the memory, a row cannot be read, or the file holds
            something else.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    output_dir = Path(output_dir)
    state = process_state()
    done = predictions_so_far(output_dir)
    if any(not 0 <= index < len(dataset) for index in done):
        raise ValueError(f"{output_dir} has answers to rows that the dataset lacks. Pass another folder.")
    state.wait_for_everyone()  # no process writes before all have read, so all agree on what is left
    order = _images_together(list(dataset["image_id"]))
    # Batches are cut from all rows and then thinned out: a run that resumes has the batches of one that never stopped.
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    pending = [[index for index in batch if index not in done] for batch in batches]
    shares = [batch for batch in pending if batch][state.process_index :: state.num_processes]
    if shares:
        _answer_batches(respondent, dataset, shares, _own_file(output_dir, state), progress, description, state)
    state.wait_for_everyone()
    if state.is_main_process:
        _merge(output_dir)
    state.wait_for_everyone()
    predictions = predictions_so_far(output_dir)
    return [predictions[index] for index in range(len(dataset))]


def read_predictions(output_dir: str | os.PathLike) -> dict[int, Prediction]:
    """Read the answers in a folder.

    Args:
        output_dir (`str` or `Path`): folder of a run, finished or not.

    Returns:
        `dict[int, Prediction]`: answers by the number of their row.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a file has a line that is not an answer.
    """
    if not Path(output_dir).is_dir():
        raise FileNotFoundError(f"`output_dir` {output_dir} is not a folder. Pass the one that a run wrote.")
    return predictions_so_far(output_dir)


def predictions_so_far(output_dir: str | os.PathLike) -> dict[int, Prediction]:
    """What [`read_predictions`] reads, for a run that has perhaps not made its folder yet.

    Args:
        output_dir (`str` or `Path`): folder of the run, there or not.

    Returns:
        `dict[int, Prediction]`: answers by the number of their row.

    Raises:
        ValueError: a file has a line that is not an answer.
    """
    predictions: dict[int, Prediction] = {}
    for path in prediction_files(Path(output_dir)):
        for number, record in enumerate(read_jsonl(path), start=1):
            try:
                prediction = Prediction.from_dict(record)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, record {number} is not an answer ({error!r}). Remove it.") from error
            predictions.setdefault(prediction.index, prediction)
    return predictions


def prediction_files(output_dir: Path) -> list[Path]:
    """The answer files in a folder: the merged one, then those of single processes.

    Args:
        output_dir (`Path`): folder of a run.

    Returns:
        `list[Path]`: those that exist.
    """
    return [path for path in (output_dir / PREDICTIONS_NAME, *sorted(output_dir.glob(PARTS_PATTERN))) if path.exists()]


def _images_together(image_ids: Sequence[str]) -> list[int]:
    """Row numbers, ordered so that rows about the same image are adjacent."""
    first: dict[str, int] = {}
    for index, image_id in enumerate(image_ids):
        first.setdefault(image_id, index)
    return sorted(range(len(image_ids)), key=lambda index: first[image_ids[index]])


def _own_file(output_dir: Path, state: PartialState) -> Path:
    if state.num_processes == 1:
        return output_dir / PREDICTIONS_NAME
    return output_dir / f"predictions-{state.process_index:05d}-of-{state.num_processes:05d}.jsonl"


def _answer_batches(
    respondent: Respondent,
    dataset: Dataset,
    batches: Sequence[Sequence[int]],
    path: Path,
    progress: bool,
    description: str,
    state: PartialState,
) -> None:
    """Answer batches of rows into a file."""
    if state.num_processes > 1:
        description = f"{description} (1 of {state.num_processes} processes)"
    log = JsonlLog(path)
    try:
        with tqdm(
            total=sum(map(len, batches)),
            desc=description,
            unit="row",
            disable=not (progress and state.is_main_process),
        ) as bar:
            prepared = run_ahead(
                lambda indices: respondent.prepare(_read_rows(dataset, indices)), batches, BATCHES_AHEAD
            )
            for batch, inputs in zip(batches, prepared, strict=True):
                try:
                    answers = respondent.answer(inputs)
                except torch.OutOfMemoryError as error:
                    raise ValueError(
                        f"The memory of the device does not hold a batch of {len(batch)} rows. Answers so far are "
                        "kept: resume with a smaller `batch_size`."
                    ) from error
                for answer in answers:
                    log.write(answer.to_dict())
                bar.update(len(batch))
    finally:
        log.close()


def _read_rows(dataset: Dataset, indices: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for index in indices:
        try:
            rows.append({"index": index, **dataset[index]})
        except OSError as error:
            raise ValueError(f"The image of row {index} cannot be read ({error}). Make the dataset again.") from error
    return rows


def _merge(output_dir: Path) -> None:
    """Merge all files into one, in the order of the rows. An up-to-date file is not rewritten."""
    # If this is interrupted before the parts are gone, their answers are read twice and the first of each counts.
    predictions = predictions_so_far(output_dir)
    parts = list(output_dir.glob(PARTS_PATTERN))
    if parts or list(predictions) != sorted(predictions):
        in_order = sorted(predictions.values(), key=lambda prediction: prediction.index)
        write_jsonl(output_dir / PREDICTIONS_NAME, [prediction.to_dict() for prediction in in_order])
    for part in parts:
        part.unlink()


__all__ = [
    "PREDICTIONS_NAME",
    "answer_dataset",
    "prediction_files",
    "predictions_so_far",
    "process_state",
    "read_predictions",
]
