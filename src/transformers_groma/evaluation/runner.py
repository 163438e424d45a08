"""Runs a benchmark into a folder: answers, metrics, plots, and a gallery of the worst answers.

A folder belongs to one run. `results.json` has the settings from the start and the metrics at the end; `answers.py`
keeps the answers beside it. Metrics follow from the answers alone, so neither an interruption nor the number of
processes changes them.
"""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset, Image
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from .._locks import one_writer
from ..data.columns import BOXES_OF_MASKS, FEATURES, check_columns, check_dataset, check_masks
from .answers import answer_dataset, prediction_files, predictions_so_far, process_state, read_predictions
from .benchmark import Benchmark, BenchmarkRows, Respondent, row_name
from .fingerprints import dataset_fingerprint, model_sha256
from .predictions import Prediction
from .reports.gallery import GalleryCase, worst_first, write_gallery
from .reports.report import RESULTS_NAME, Results, read_results, versions, write_report

if TYPE_CHECKING:
    from .judge import Judge

# Settings that change answers: a run only resumes in a folder where all of them are the same.
IDENTITY = (
    "benchmark",
    "protocol",
    "model_sha256",
    "dataset_fingerprint",
    "rows",
    "dtype",
    "prompt_seed",
    "max_new_tokens",
    "box_score_threshold",
    "nms_threshold",
)


def evaluate(
    benchmark: Benchmark,
    model: PreTrainedModel,
    processor: ProcessorMixin | BaseImageProcessor,
    dataset: Dataset,
    output_dir: str | os.PathLike,
    *,
    batch_size: int = 16,
    prompt_seed: int | None = None,
    max_new_tokens: int | None = None,
    gallery: int = 0,
    judge: "Judge | None" = None,
    progress: bool = True,
    model_name: str = "",
    dataset_name: str = "",
    split: str = "",
    notes: Mapping[str, Any] | None = None,
) -> Results:
    """Run a benchmark into a folder: answers, metrics, plots, and a gallery if wanted.

    Args:
        benchmark (`Benchmark`): see `loading.load_benchmark`.
        model (`PreTrainedModel`): one of the benchmark's `model_types`, put
            into evaluation mode. Its config has the thresholds.
        processor (`ProcessorMixin` or image processor): its processor.
        dataset (`Dataset`): columns of one of the benchmark's `schemas`.
        output_dir (`str` or `Path`): output folder, for `predictions.jsonl`, `results.json`, `results.md`, plots and
            `gallery.html`.
        batch_size (`int`): rows at a time.
        prompt_seed (`int`, *optional*): draws the wording of questions, see `questions.question_of`; without it rows
            keep their own, unless the protocol of the benchmark says otherwise.
        max_new_tokens (`int`, *optional*): longest answer; the benchmark's own by default.
        gallery (`int`): how many of the worst answers to draw.
        judge (`Judge`, *optional*): the judge model, for a benchmark that has its answers reviewed. Without one, such
            a benchmark has answers and no metrics.
        progress (`bool`): whether to show a progress bar.
        model_name, dataset_name, split (`str`): what the report calls them. The paper's metrics are found by `split`
            and the column `source`.
        notes (`Mapping`, *optional*): further settings to write down.

    Returns:
        `Results`: what `results.json` holds.

    Raises:
        ValueError: wrong columns or rows, such as masks that do not fit their image or box, a model without a mask
            decoder where masks are compared, a judge that the benchmark has no use for, the folder holds a run of
            other settings, or see [`answer_dataset`].
        OutputError: the folder cannot be written, or another run is writing it.

    Example:
    >>> import tempfile
    >>> from transformers_groma import GromaForConditionalGeneration, GromaProcessor
    >>> from transformers_groma.evaluation.benchmarks import rec
    >>> from transformers_groma.shapes.rows import shapes_dataset
    >>> model = GromaForConditionalGeneration.from_pretrained("hub_configs/groma-tiny")
    >>> processor = GromaProcessor.from_pretrained("hub_configs/groma-tiny")
    >>> rows = shapes_dataset("rec", 2, seed=0, split="test", evaluation=True)
    >>> results = evaluate(rec.BENCHMARK, model, processor, rows, tempfile.mkdtemp(), progress=False)
    >>> results.complete, "acc@0.5" in results.metrics
    (True, True)
    """
    if judge is not None and benchmark.review is None:
        raise ValueError(f"{benchmark.name} is scored without a judge model. Leave `judge` out.")
    check_model_type(model.config, benchmark)
    if benchmark.needs_masks:
        check_decodes_masks(model.config, benchmark)
    # Reviews of different judges do not compare, so results say whose they are.
    notes = {**({} if judge is None else {"judge": judge.endpoint.model}), **(notes or {})}
    output_dir = Path(output_dir)
    dataset = _with_columns(dataset, benchmark)
    rows = benchmark.prepare(dataset)
    if len(rows.asked) == 0:
        raise ValueError("`dataset` has no rows to evaluate on.")
    given = {"prompt_seed": prompt_seed, "max_new_tokens": max_new_tokens}
    asking = benchmark.asking._replace(**{name: value for name, value in given.items() if value is not None})
    respondent = benchmark.respondent(model, processor, asking)
    # A question that cannot be put into words is an error, and it comes before any row is asked.
    for row in rows.rows:
        respondent.question(row)
    state = process_state()
    settings = {
        "benchmark": benchmark.name,
        "protocol": benchmark.protocol,
        "model": model_name,
        "dataset": dataset_name,
        "split": split,
        **run_settings(model, processor, dataset),
        "rows": len(rows.asked),
        "batch_size": batch_size,
        "prompt_seed": asking.prompt_seed,
        "max_new_tokens": asking.max_new_tokens,
        "processes": state.num_processes,
        **benchmark.settings,
        **notes,
    }
    with one_writer(output_dir, "evaluate") if state.is_main_process else nullcontext():
        earlier = check_folder(output_dir, settings)
        state.wait_for_everyone()  # no process writes before all have read
        if earlier is None and state.is_main_process:
            started = Results(benchmark.name, {}, settings, asked=0, seconds=0.0, complete=False)
            write_report(output_dir, benchmark, started)
        known = len(predictions_so_far(output_dir))
        start = time.perf_counter()
        predictions = answer_dataset(
            respondent, rows.asked, output_dir, batch_size=batch_size, progress=progress, description=benchmark.name
        )
        seconds, asked = time.perf_counter() - start, len(predictions) - known
        if state.is_main_process:
            if asked == 0 and earlier is not None and earlier.complete:
                # A finished run, scored again: keep where and when its rows were answered.
                settings = {**earlier.settings, **benchmark.settings, **notes}
                seconds, asked = earlier.seconds, earlier.asked
            if benchmark.review is not None:
                rows = rows._replace(rows=benchmark.review(predictions, rows.rows, output_dir, judge))
            metrics = benchmark.score(predictions, rows.rows)
            for name, plot in benchmark.plots.items():
                plot(predictions, rows.rows, metrics, output_dir / name)
            if gallery > 0:
                draw_worst(benchmark, respondent, predictions, rows, output_dir, gallery)
            results = Results(benchmark.name, metrics, settings, asked, seconds, complete=True)
            write_report(output_dir, benchmark, results, list(benchmark.plots))
        state.wait_for_everyone()
        return read_results(output_dir)


def check_model_type(config: PreTrainedConfig, benchmark: Benchmark) -> None:
    """Refuse a model of a family that a benchmark or its protocol cannot measure.

    Args:
        config (`PreTrainedConfig`): of the model.
        benchmark (`Benchmark`): the benchmark.

    Raises:
        ValueError: the model is of another type.
    """
    if config.model_type not in benchmark.model_types:
        name = benchmark.name if benchmark.protocol is None else f"{benchmark.name} by {benchmark.protocol!r}"
        raise ValueError(
            f"{name} measures models of type {' or '.join(map(repr, benchmark.model_types))}, and this one is "
            f"{config.model_type!r}. Use another model, protocol or benchmark."
        )


def check_decodes_masks(config: PreTrainedConfig, benchmark: Benchmark) -> None:
    """Refuse a model without a mask decoder for a benchmark that compares masks.

    Args:
        config (`PreTrainedConfig`): of the model; its weights need not be loaded.
        benchmark (`Benchmark`): one with `needs_masks`.

    Raises:
        ValueError: it has no mask decoder.
    """
    if config.mask_decoder_config is None:
        raise ValueError(
            f"{benchmark.name} compares masks, and the model has no mask decoder: it points with boxes alone. "
            "`groma train masks` adds one."
        )


def check_folder(output_dir: str | os.PathLike, settings: Mapping[str, Any]) -> Results | None:
    """Check that a folder is empty or holds a run of the same settings.

    Args:
        output_dir (`str` or `Path`): folder of a run.
        settings (`Mapping`): settings of the run that is about to start.

    Returns:
        `Results`: the run that it holds, finished or not; `None` if it is empty.

    Raises:
        ValueError: it holds another run; the message says what differs.
    """
    output_dir = Path(output_dir)
    if not (output_dir / RESULTS_NAME).exists():
        if files := prediction_files(output_dir):
            raise ValueError(
                f"{files[0]} exists without the {RESULTS_NAME} that says whose answers it holds. Remove it, or pass "
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
    model: PreTrainedModel,
    processor: ProcessorMixin | BaseImageProcessor,
    dataset: Dataset,
) -> dict[str, Any]:
    """The settings that identify the model and the rows of a run.

    Args:
        model (`PreTrainedModel`): with the thresholds that it runs with.
        processor (`ProcessorMixin` or image processor): its processor.
        dataset (`Dataset`): columns of its schema.

    Returns:
        `dict`: ready for JSON.
    """
    config = model.config
    return {
        # Only models from the Hub have one.
        "model_revision": getattr(config, "_commit_hash", None),
        "model_sha256": model_sha256(model, processor),
        "sources": sorted(set(dataset["source"])),
        "dataset_fingerprint": dataset_fingerprint(dataset),
        "dtype": str(config.dtype or model.dtype).removeprefix("torch."),
        # Of a model that proposes regions.
        "box_score_threshold": getattr(config, "box_score_threshold", None),
        "nms_threshold": getattr(config, "nms_threshold", None),
        "device": model.device.type,
        "versions": versions(),
    }


def draw_worst(
    benchmark: Benchmark,
    respondent: Respondent,
    predictions: Sequence[Prediction],
    rows: BenchmarkRows,
    output_dir: str | os.PathLike,
    count: int,
) -> Path:
    """Draw the worst answers into `gallery.html` and `gallery/*.png`.

    Args:
        benchmark (`Benchmark`): scores the answers.
        respondent (`Respondent`): says what it was asked.
        predictions (`Sequence[Prediction]`): all answers.
        rows (`BenchmarkRows`): what was asked.
        output_dir (`str` or `Path`): folder of the run.
        count (`int`): how many answers to draw.

    Returns:
        `Path`: the page.
    """
    scores = benchmark.score_rows(predictions, rows.rows)
    cases = []
    for index in worst_first(scores, count):
        row, prediction = rows.asked[index], predictions[index]
        predicted, targets = benchmark.drawn_boxes(prediction, rows.rows[index])
        predicted_masks, target_masks = benchmark.drawn_masks(prediction, rows.rows[index])
        cases.append(
            GalleryCase(
                image=row["image"],
                title=row_name(index, row),
                question=respondent.question(rows.rows[index]),
                answer=prediction.text,
                predicted_boxes_xyxy=predicted,
                target_boxes_xyxy=targets,
                score=scores[index],
                verdict=benchmark.verdict(scores[index], prediction, rows.rows[index]),
                expected=rows.rows[index].get("references") or (),
                target_name=benchmark.target_name,
                predicted_masks=predicted_masks,
                target_masks=target_masks,
            )
        )
    return write_gallery(output_dir, cases, title=f"{benchmark.title}: worst answers")


def _with_columns(dataset: Dataset, benchmark: Benchmark) -> Dataset:
    """The columns of the benchmark's schema, with images decoded even if the dataset was set not to."""
    errors = []
    for schema in benchmark.schemas:
        try:
            check_columns(dataset.features, schema)
        except ValueError as error:
            errors.append(str(error))
        else:
            more = [name for name in benchmark.more_columns if name in dataset.features]
            dataset = dataset.select_columns([*FEATURES[schema], *more]).cast_column("image", Image())
            # Masks of another image are found now, and not after hours of answers.
            if BOXES_OF_MASKS.keys() & set(more):
                check_dataset(dataset, schema, check_masks)
            return dataset
    remedy = " `groma data` and the scripts of processing/ make evaluation rows with `--evaluation`."
    raise ValueError(
        f"The rows do not fit `groma evaluate {benchmark.name}`. {' '.join(errors)}"
        f"{remedy if 'evaluation' in benchmark.schemas else ''}"
    )


__all__ = [
    "IDENTITY",
    "check_folder",
    "check_decodes_masks",
    "check_model_type",
    "draw_worst",
    "evaluate",
    "read_predictions",
    "run_settings",
]
