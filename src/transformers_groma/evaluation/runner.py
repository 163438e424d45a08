"""Runs a benchmark: asks each row once, keeps answers as they come, scores them.

A folder belongs to one run. `predictions.jsonl` has a line an answer, written when it is there; `results.json` has the
settings from the start on, and the figures at the end. A run that was killed resumes. Rows about the same image are
asked together, as a batch encodes it once. Under `accelerate launch` or `torchrun` every process takes its share of
the batches and writes a file of its own beside it; at the end they become one, in the order of the rows. Figures
follow from that file alone, so neither processes nor interruptions change them.
"""

import copy
import datetime
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from accelerate import PartialState
from datasets import Dataset, Image
from tqdm.auto import tqdm
from transformers.image_processing_utils import BaseImageProcessor

from .._files import one_writer
from .._jsonl import JsonlLog, read_jsonl, write_jsonl
from ..data.columns import FEATURES, check_columns
from ..models.groma.modeling_groma import GromaForConditionalGeneration
from ..models.groma.modeling_groma_detector import GromaForRegionProposal
from ..models.groma.processing_groma import GromaProcessor
from .benchmark import Benchmark, BenchmarkRows, Row, question_of, question_text, row_name
from .benchmarks.detection import ProposalRespondent
from .fingerprints import dataset_fingerprint, model_sha256
from .generation import PreparedQuestions, answer_questions, prepare_questions
from .predictions import Prediction
from .reports.gallery import GalleryCase, worst_first, write_gallery
from .reports.report import RESULTS_NAME, Results, read_results, versions, write_report

PREDICTIONS_NAME = "predictions.jsonl"
PARTS_PATTERN = "predictions-*-of-*.jsonl"
# Batches that are made ready while the model is at work.
BATCHES_AHEAD = 2
# Processes wait for the slowest one, and for the figures; the usual ten minutes would end a long run.
LONGEST_WAIT = datetime.timedelta(days=7)
# Settings that change answers. A folder is gone on with only where all of them are the same.
IDENTITY = (
    "benchmark",
    "model_sha256",
    "dataset_fingerprint",
    "rows",
    "dtype",
    "prompt_seed",
    "max_new_tokens",
    "box_score_threshold",
    "nms_threshold",
)

Prepared = TypeVar("Prepared")


class Respondent(Protocol, Generic[Prepared]):
    """What answers rows: a model with its processor."""

    def prepare(self, rows: Sequence[Row]) -> Prepared:
        """Make a batch ready. Runs ahead of the model, in another thread.

        Args:
            rows (`Sequence[Mapping]`): a batch, images decoded, and `index`, the number of the row.

        Returns:
            The batch, ready for `answer`.
        """
        ...

    def answer(self, prepared: Prepared) -> list[Prediction]:
        """Answer a batch.

        Args:
            prepared: what `prepare` made.

        Returns:
            `list[Prediction]`: one a row, in order.
        """
        ...


class _Chat(NamedTuple):
    """A batch of questions and whose they are."""

    indices: list[int]
    image_ids: list[str]
    questions: PreparedQuestions


class ChatRespondent:
    """Answers the questions of rows in words, greedily.

    Args:
        model (`GromaForConditionalGeneration`): put into evaluation mode.
        processor (`GromaProcessor`): of the model.
        benchmark (`Benchmark`): whose questions are asked.
        prompt_seed (`int`, *optional*): see [`question_of`].
        max_new_tokens (`int`, *optional*): longest answer; the benchmark's own by default.
    """

    def __init__(
        self,
        model: GromaForConditionalGeneration,
        processor: GromaProcessor,
        benchmark: Benchmark,
        prompt_seed: int | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        self.model, self.processor = model.eval(), processor
        # A tokenizer serves one thread at a time, and this one the thread that runs ahead.
        self._processor_ahead = copy.deepcopy(processor)
        self.task, self.prompt_seed = benchmark.task, prompt_seed
        self.max_new_tokens = benchmark.max_new_tokens if max_new_tokens is None else max_new_tokens

    def prepare(self, rows: Sequence[Row]) -> _Chat:
        """Questions to model inputs; see [`Respondent`]."""
        asked = [question_of(row, self.task, self.prompt_seed) for row in rows]
        return _Chat(
            [row["index"] for row in rows],
            [row["image_id"] for row in rows],
            prepare_questions(self._processor_ahead, asked),
        )

    def answer(self, prepared: _Chat) -> list[Prediction]:
        """Answers of the model; see [`Respondent`]."""
        answers = answer_questions(self.model, self.processor, prepared.questions, self.max_new_tokens)
        return [
            Prediction.of(index, image_id, answer)
            for index, image_id, answer in zip(prepared.indices, prepared.image_ids, answers, strict=True)
        ]


def process_state(device: str | torch.device | None = None) -> PartialState:
    """Which process of how many this is.

    Args:
        device (`str` or `torch.device`, *optional*): where models will run; by default the accelerator if there is
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
    """Answer the rows of a dataset that a folder has no answer to yet.

    Args:
        respondent (`Respondent`): what answers.
        dataset (`Dataset`): rows with an image.
        output_dir (`str` or `Path`): folder of `predictions.jsonl`. What is in there must come from the same
            respondent and dataset; [`evaluate`] sees to that.
        batch_size (`int`): rows at once. It does not change answers, but for rounding.
        progress (`bool`): whether to show a bar.
        description (`str`): beside the bar.

    Returns:
        `list[Prediction]`: one a row, in order; of all processes, in each of them.

    Raises:
        ValueError: `batch_size` is not positive or too large for the memory, a row cannot be read, or the file holds
            something else.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    output_dir = Path(output_dir)
    state = process_state()
    done = read_predictions(output_dir)
    if any(not 0 <= index < len(dataset) for index in done):
        raise ValueError(f"{output_dir} has answers to rows that the dataset has not. Pass another folder.")
    state.wait_for_everyone()  # nobody writes before all have read
    order = _images_together(list(dataset["image_id"]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    pending = [[index for index in batch if index not in done] for batch in batches]
    shares = [batch for batch in pending if batch][state.process_index :: state.num_processes]
    if shares:
        _answer_batches(respondent, dataset, shares, _own_file(output_dir, state), progress, description, state)
    state.wait_for_everyone()
    if state.is_main_process:
        _merge(output_dir)
    state.wait_for_everyone()
    predictions = read_predictions(output_dir)
    return [predictions[index] for index in range(len(dataset))]


def read_predictions(output_dir: str | os.PathLike) -> dict[int, Prediction]:
    """The answers in a folder, of all its files.

    Args:
        output_dir (`str` or `Path`): folder of a run, finished or not.

    Returns:
        `dict[int, Prediction]`: by the number of the row.

    Raises:
        ValueError: a file has a line that is no answer.
    """
    predictions: dict[int, Prediction] = {}
    for path in _prediction_files(Path(output_dir)):
        for number, record in enumerate(read_jsonl(path), start=1):
            try:
                prediction = Prediction.from_dict(record)
            except (KeyError, TypeError) as error:
                raise ValueError(f"{path}, record {number} is not an answer ({error!r}). Remove it.") from error
            predictions.setdefault(prediction.index, prediction)
    return predictions


def evaluate(
    benchmark: Benchmark,
    model: GromaForConditionalGeneration | GromaForRegionProposal,
    processor: GromaProcessor | BaseImageProcessor,
    dataset: Dataset,
    output_dir: str | os.PathLike,
    *,
    batch_size: int = 16,
    prompt_seed: int | None = None,
    max_new_tokens: int | None = None,
    gallery: int = 0,
    progress: bool = True,
    model_name: str = "",
    dataset_name: str = "",
    split: str = "",
    notes: Mapping[str, Any] | None = None,
) -> Results:
    """Run a benchmark into a folder: answers, figures, plots, and the worst cases if wanted.

    Args:
        benchmark (`Benchmark`): `BENCHMARK` of `rec.py`, `lvis_ground.py`, `region_caption.py`, `grounded_caption.py`
            or `proposals.py`.
        model (`GromaForConditionalGeneration`, or for detection also `GromaForRegionProposal`): put into evaluation
            mode. Its config has the thresholds.
        processor (`GromaProcessor`, or for detection also an image processor): of the model.
        dataset (`Dataset`): evaluation columns, for detection those of detection.
        output_dir (`str` or `Path`): made if needed. `predictions.jsonl`, `results.json`, `results.md`, plots,
            `gallery.html`.
        batch_size (`int`): rows at once.
        prompt_seed (`int`, *optional*): draws the wording of questions, see [`question_of`]; without it rows keep
            their own.
        max_new_tokens (`int`, *optional*): longest answer; the benchmark's own by default.
        gallery (`int`): how many of the worst answers to draw.
        progress (`bool`): whether to show a bar.
        model_name, dataset_name, split (`str`): for the report. The paper's figures are found by `split` and the
            column `source`.
        notes (`Mapping`, *optional*): further settings to write down.

    Returns:
        `Results`: what `results.json` holds.

    Raises:
        ValueError: wrong columns or rows, the folder holds a run of other settings, or see [`answer_dataset`].
        OutputError: the folder cannot be written, or another run is writing it.

    Example:
    >>> import tempfile
    >>> from transformers_groma.shapes.rows import shapes_dataset
    >>> from transformers_groma.evaluation.benchmarks import rec
    >>> model = GromaForConditionalGeneration.from_pretrained("hub_configs/groma-tiny")
    >>> processor = GromaProcessor.from_pretrained("hub_configs/groma-tiny")
    >>> rows = shapes_dataset("rec", 2, seed=0, split="test", evaluation=True)
    >>> results = evaluate(rec.BENCHMARK, model, processor, rows, tempfile.mkdtemp(), progress=False)
    >>> results.complete, "acc@0.5" in results.metrics
    (True, True)
    """
    output_dir = Path(output_dir)
    dataset = _with_columns(dataset, benchmark)
    rows = benchmark.prepare(dataset)
    if len(rows.asked) == 0:
        raise ValueError("`dataset` has no rows to evaluate on.")
    if not benchmark.asks:
        respondent = ProposalRespondent(model, processor)
    else:
        respondent = ChatRespondent(model, processor, benchmark, prompt_seed, max_new_tokens)
        max_new_tokens = respondent.max_new_tokens
        _check_prompts(benchmark, rows.rows, prompt_seed)
    state = process_state()
    settings = {
        "benchmark": benchmark.name,
        "model": model_name,
        "dataset": dataset_name,
        "split": split,
        **run_settings(model, processor, dataset),
        "rows": len(rows.asked),
        "batch_size": batch_size,
        "prompt_seed": prompt_seed,
        "max_new_tokens": max_new_tokens,
        "processes": state.num_processes,
        **(notes or {}),
    }
    with one_writer(output_dir, "evaluate") if state.is_main_process else nullcontext():
        earlier = check_folder(output_dir, settings)
        state.wait_for_everyone()  # nobody writes before all have read
        if earlier is None and state.is_main_process:
            started = Results(benchmark.name, {}, settings, asked=0, seconds=0.0, complete=False)
            write_report(output_dir, benchmark, started)
        known = len(read_predictions(output_dir))
        start = time.perf_counter()
        predictions = answer_dataset(
            respondent, rows.asked, output_dir, batch_size=batch_size, progress=progress, description=benchmark.name
        )
        seconds, asked = time.perf_counter() - start, len(predictions) - known
        if state.is_main_process:
            if asked == 0 and earlier is not None and earlier.complete:
                settings = {**earlier.settings, **(notes or {})}
                seconds, asked = earlier.seconds, earlier.asked
            metrics = benchmark.score(predictions, rows.rows)
            plots = benchmark.plot(predictions, rows.rows, metrics, output_dir)
            if gallery > 0:
                draw_worst(benchmark, predictions, rows, output_dir, gallery, prompt_seed)
            results = Results(benchmark.name, metrics, settings, asked, seconds, complete=True)
            write_report(output_dir, benchmark, results, [path.name for path in plots])
        state.wait_for_everyone()
        return read_results(output_dir)


def check_folder(output_dir: str | os.PathLike, settings: Mapping[str, Any]) -> Results | None:
    """Check that a folder is empty or holds a run of the same settings.

    Args:
        output_dir (`str` or `Path`): folder of a run.
        settings (`Mapping`): of the run to come.

    Returns:
        `Results`: of the run that it holds, finished or not; `None` without one.

    Raises:
        ValueError: it holds another run; the message says what differs.
    """
    output_dir = Path(output_dir)
    if not (output_dir / RESULTS_NAME).exists():
        if files := _prediction_files(output_dir):
            raise ValueError(
                f"{files[0]} is there without the {RESULTS_NAME} that says whose answers it holds. Remove it, or pass "
                f"another folder."
            )
        return None
    earlier = read_results(output_dir)
    found = earlier.settings
    differing = [name for name in IDENTITY if found.get(name) != settings.get(name)]
    if differing:
        pairs = "; ".join(
            f"`{name}` is {found.get(name)!r} there and {settings.get(name)!r} now" for name in differing
        )
        raise ValueError(f"{output_dir} holds another run: {pairs}. Pass another folder, or remove this one.")
    return earlier


def run_settings(
    model: GromaForConditionalGeneration | GromaForRegionProposal,
    processor: GromaProcessor | BaseImageProcessor,
    dataset: Dataset,
) -> dict[str, Any]:
    """What tells the model and the rows of a run from others.

    Args:
        model (`GromaForConditionalGeneration` or `GromaForRegionProposal`): with the thresholds that it will have.
        processor (`GromaProcessor` or image processor): of the model.
        dataset (`Dataset`): columns of its schema.

    Returns:
        `dict`: ready for JSON.
    """
    config = model.config
    return {
        # Known of models from the Hub only.
        "model_revision": getattr(config, "_commit_hash", None),
        "model_sha256": model_sha256(model, processor),
        "sources": sorted(set(dataset["source"])),
        "dataset_fingerprint": dataset_fingerprint(dataset),
        "dtype": str(config.dtype or model.dtype).removeprefix("torch."),
        "box_score_threshold": config.box_score_threshold,
        "nms_threshold": config.nms_threshold,
        "device": model.device.type,
        "versions": versions(),
    }


def draw_worst(
    benchmark: Benchmark,
    predictions: Sequence[Prediction],
    rows: BenchmarkRows,
    output_dir: str | os.PathLike,
    count: int,
    prompt_seed: int | None = None,
) -> Path:
    """Draw the worst answers: `gallery.html` and `gallery/*.png`.

    Args:
        benchmark (`Benchmark`): what scores them.
        predictions (`Sequence[Prediction]`): all answers.
        rows (`BenchmarkRows`): what was asked.
        output_dir (`str` or `Path`): where to.
        count (`int`): how many.
        prompt_seed (`int`, *optional*): that of the run, to show what was asked.

    Returns:
        `Path`: the page.
    """
    scores = benchmark.score_rows(predictions, rows.rows)
    cases = []
    for index in worst_first(scores, count):
        row, prediction = rows.asked[index], predictions[index]
        predicted, targets = benchmark.drawn_boxes(prediction, rows.rows[index])
        cases.append(
            GalleryCase(
                image=row["image"],
                title=row_name(index, row),
                question=question_text(question_of(row, benchmark.task, prompt_seed)) if benchmark.asks else "",
                answer=prediction.text,
                predicted_boxes_xyxy=predicted,
                target_boxes_xyxy=targets,
                score=scores[index],
                verdict=benchmark.verdict(scores[index], prediction, rows.rows[index]),
                expected=rows.rows[index].get("references") or (),
                target_name=benchmark.target_name,
            )
        )
    return write_gallery(output_dir, cases, title=f"{benchmark.title}: worst answers")


def _prediction_files(output_dir: Path) -> list[Path]:
    return [path for path in (output_dir / PREDICTIONS_NAME, *sorted(output_dir.glob(PARTS_PATTERN))) if path.exists()]


def _images_together(image_ids: Sequence[str]) -> list[int]:
    """Numbers of the rows, those about the same image one after the other: within a batch it is encoded once."""
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
            for batch, prepared in _run_ahead(
                lambda indices: respondent.prepare(_read_rows(dataset, indices)), batches
            ):
                try:
                    answers = respondent.answer(prepared)
                except torch.OutOfMemoryError as error:
                    raise ValueError(
                        f"The memory of the device does not hold a batch of {len(batch)} rows. Answers so far are "
                        f"kept: go on with a "
                        "smaller `batch_size`."
                    ) from error
                for answer in answers:
                    log.write(answer.to_dict())
                bar.update(len(batch))
    finally:
        log.close()


def _run_ahead(
    prepare: Callable[[Sequence[int]], Any], batches: Sequence[Sequence[int]]
) -> Iterator[tuple[Sequence[int], Any]]:
    """Batches and what `prepare` makes of them, a few of them made while the first is used."""
    with ThreadPoolExecutor(1) as executor:
        waiting: list[tuple[Sequence[int], Future]] = []
        try:
            for batch in batches:
                waiting.append((batch, executor.submit(prepare, batch)))
                if len(waiting) > BATCHES_AHEAD:
                    first, future = waiting.pop(0)
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _read_rows(dataset: Dataset, indices: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for index in indices:
        try:
            rows.append({"index": index, **dataset[index]})
        except OSError as error:
            raise ValueError(f"The image of row {index} cannot be read ({error}). Make the dataset again.") from error
    return rows


def _merge(output_dir: Path) -> None:
    """One file, in the order of the rows. Where it is that already, nothing is written."""
    predictions = read_predictions(output_dir)
    parts = list(output_dir.glob(PARTS_PATTERN))
    if parts or list(predictions) != sorted(predictions):
        in_order = sorted(predictions.values(), key=lambda prediction: prediction.index)
        write_jsonl(output_dir / PREDICTIONS_NAME, [prediction.to_dict() for prediction in in_order])
    for part in parts:
        part.unlink()


def _check_prompts(benchmark: Benchmark, rows: Sequence[Row], prompt_seed: int | None) -> None:
    """Check that all rows can be asked in other words, before any is."""
    if prompt_seed is None:
        return
    if benchmark.task is None:
        raise ValueError(f"`prompt_seed` is of no use to {benchmark.name}: it asks what its rows say. Leave it out.")
    for row in rows:
        question_of(row, benchmark.task, prompt_seed)


def _with_columns(dataset: Dataset, benchmark: Benchmark) -> Dataset:
    """The columns of the benchmark's schema, images decoded whatever was set."""
    errors = []
    for schema in benchmark.schemas:
        try:
            check_columns(dataset.features, schema)
        except ValueError as error:
            errors.append(str(error))
        else:
            more = [name for name in benchmark.more_columns if name in dataset.features]
            return dataset.select_columns([*FEATURES[schema], *more]).cast_column("image", Image())
    remedy = " `groma data` and the scripts of processing/ make evaluation rows with `--evaluation`."
    raise ValueError(
        f"The rows do not fit `groma evaluate {benchmark.name}`. {' '.join(errors)}"
        f"{remedy if 'evaluation' in benchmark.schemas else ''}"
    )


__all__ = [
    "IDENTITY",
    "PREDICTIONS_NAME",
    "ChatRespondent",
    "Respondent",
    "answer_dataset",
    "check_folder",
    "draw_worst",
    "evaluate",
    "process_state",
    "read_predictions",
    "run_settings",
]
