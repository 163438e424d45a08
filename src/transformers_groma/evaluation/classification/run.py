"""Classifies a labelled dataset by all methods in one run: features once, then the table, plots and predictions."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..._files import complete_file, write_files
from ..._locks import one_writer
from ..._words import counted, quoted
from ...zero_shot.dual_encoder import DualEncoder
from ...zero_shot.label_lists import DistinctNames, distinct_names
from ...zero_shot.label_texts import LabelTexts
from ...zero_shot.methods import METHODS
from ...zero_shot.region_views import RegionViews
from ...zero_shot.released_protocol import draw_indices
from ...zero_shot.temperatures import check_temperature, default_temperatures
from ..answers import PREDICTIONS_NAME
from ..fingerprints import model_sha256
from ..reports.confusion_plot import plot_confusion
from ..reports.gallery import write_gallery
from ..reports.report import REPORT_NAME, RESULTS_NAME, Results, read_results, versions
from ..runner import check_folder
from .dataset_scorer import DatasetScorer
from .gallery_cases import BOXES, explained, gallery_case, worst_images
from .image_features import FeatureFolder, ViewSet
from .labelled_images import LabelledImages
from .report import RowResult, markdown_table_of_run, metrics_of, per_class
from .table_options import TableOptions
from .table_rows import TextFiles, table_rows, texts_of_methods
from .view_plans import ViewPlan, plan_released_views, plan_views

BENCHMARK = "zero-shot"
PER_CLASS_NAME, CONFUSION_NAME, FEATURES_NAME = "per_class.json", "confusion.png", "features"
# What changes no accuracy.
_NOT_SETTINGS = ("gallery", "published")


DEFAULT_OPTIONS, NO_FILES = TableOptions(), TextFiles()


@dataclass(frozen=True)
class Table:
    """What a run has found.

    Args:
        results (`Results`): what `results.json` holds.
        rows (`list[RowResult]`): the rows of the table.
        notes (`list[str]`): sentences on the run, such as methods that could not run.
        left_out (`Mapping[str, Sequence[str]]`): by reason, what was not classified.
    """

    results: Results
    rows: list[RowResult]
    notes: list[str]
    left_out: Mapping[str, Sequence[str]]


def classify_dataset(
    images: LabelledImages,
    encoder: DualEncoder,
    output_dir: str | os.PathLike,
    options: TableOptions = DEFAULT_OPTIONS,
    files: TextFiles = NO_FILES,
    *,
    proposer: RegionViews | None = None,
    draws: torch.Tensor | None = None,
    progress: bool = True,
    model_name: str = "",
    notes: Mapping[str, Any] | None = None,
) -> Table:
    """Classify a dataset by all methods into a folder.

    Args:
        images (`LabelledImages`): the dataset, see `dataset_reading.read_labelled_images`.
        encoder (`DualEncoder`): sees images and texts.
        output_dir (`str` or `Path`): output folder, for `results.json`, `results.md`, `per_class.json`,
            `predictions.jsonl`, `confusion.png`, `gallery.html` and the features. An interrupted run resumes there.
        options ([`TableOptions`]): which table.
        files ([`TextFiles`]): what texts are made of.
        proposer (`RegionViews`, *optional*): proposes regions, for views of these.
        draws (`Tensor` of shape `(R, P)`, *optional*): with `options.released`, which views of the pool each repeat
            takes; drawn from the seed by default.
        progress (`bool`): whether to show a progress bar.
        model_name (`str`): what the report calls the encoder.
        notes (`Mapping`, *optional*): further settings to write down.

    Returns:
        [`Table`]

    Raises:
        ValueError: texts that lack a class, a method that cannot run, no image that can be read, features that are not
            finite, too little space for them, or a folder with the run of another dataset or encoder.
        OutputError: the folder cannot be written, or another run is writing it.
    """
    output_dir = Path(output_dir)
    names = distinct_names(images.classes.shown)
    methods, said = _methods(options, files)
    if names.note is not None:
        said.append(names.note)
    image_temperature, text_temperature, note = _temperatures(options, methods, encoder.model.config.model_type)
    said += note
    # Texts that lack a class end the run here, before any image is read.
    texts = texts_of_methods(names.names, methods, files, options.all_seeds)
    said += _unused(texts)
    sets, plans = _plans(options, methods, proposer, draws)
    with one_writer(output_dir, "evaluate"):
        with tqdm(total=len(images), desc="reading", unit="image", disable=not progress, leave=False) as bar:
            fingerprint = images.fingerprint(bar.update)
        identity = {
            "model_sha256": model_sha256(encoder.model, encoder.image_processor),
            "dtype": str(encoder.model.dtype).removeprefix("torch."),
            "dataset_fingerprint": fingerprint,
        }
        settings: dict[str, Any] = {
            "model": model_name,
            "model_revision": getattr(encoder.model.config, "_commit_hash", None),
            "device": encoder.model.device.type,
            **identity,
            **_settings(images, options, files, methods),
            "image_temperature": image_temperature,
            "text_temperature": text_temperature,
            **(notes or {}),
        }
        check_folder(output_dir, settings)
        started = Results(BENCHMARK, {}, settings, asked=0, seconds=0.0, complete=False)
        write_files({output_dir / RESULTS_NAME: _json(asdict(started))})
        start = time.perf_counter()
        rows = table_rows(
            *(encoder, texts, plans),
            scores=options.scores,
            text_temperature=text_temperature,
            of_templates=files.descriptions is None,
        )
        bar = tqdm(total=len(images), desc=BENCHMARK, unit="image", disable=not progress, leave=False)
        features = FeatureFolder(
            *(output_dir / FEATURES_NAME, images, encoder, sets, identity),
            stored_dtype=options.stored_dtype,
            advance=bar.update,
        )
        features.check_space(rows[0].texts_of(0).anchors.shape[-1])
        scorer = DatasetScorer(rows, images, names, encoder, image_temperature)
        with bar:
            _write_predictions(output_dir, features, scorer)
        results = scorer.results()
        main = next((result for result in results if result.row.method.name == "wca"), results[-1])
        left_out = {**images.left_out, **scorer.unreadable}
        settings["left_out"] = {reason: len(found) for reason, found in left_out.items()}
        labels = images.labels[scorer.numbers]
        plot_confusion(labels, main.predicted, images.classes.shown, output_dir / CONFUSION_NAME, title=main.row.title)
        if options.gallery:
            _draw_gallery(
                main, images, names, features, scorer.numbers, output_dir, options.gallery, image_temperature
            )
        seconds = time.perf_counter() - start
        done = Results(BENCHMARK, metrics_of(results), settings, len(labels), seconds, complete=True)
        said.append(
            f"{counted(features.encoded, 'view')} of images went through the encoder in this run, each once; features "
            "of an earlier run are read from the output folder"
        )
        report = markdown_table_of_run(
            *(results, main, images.classes, labels, left_out, settings, said),
            published=options.published,
            has_gallery=bool(options.gallery),
        )
        # First what people read: a run is finished once `results.json` says so.
        write_files(
            {
                output_dir / REPORT_NAME: report.encode(),
                output_dir / PER_CLASS_NAME: _json(per_class(results, images.classes)),
                output_dir / RESULTS_NAME: _json(asdict(done)),
            }
        )
        return Table(read_results(output_dir), results, said, left_out)


def _methods(options: TableOptions, files: TextFiles) -> tuple[list[str], list[str]]:
    """The methods that run, in the order of the table, and a sentence for each that cannot."""
    said = []
    chosen = []
    for name, method in METHODS.items():
        if options.methods is not None and name not in options.methods:
            continue
        lacks = files.lacks(method)
        if lacks is None:
            chosen.append(name)
        elif options.methods is not None:
            raise ValueError(f"the method {name!r} cannot run: {lacks}.")
        else:
            said.append(f"the method {name!r} did not run: {lacks}")
    return chosen, said


def _unused(texts: Mapping[str, Sequence[LabelTexts]]) -> list[str]:
    """A sentence for each file of texts that names classes which the dataset does not have."""
    said = []
    for unused in dict.fromkeys(one.unused for of_repeats in texts.values() for one in of_repeats):
        if unused:
            said.append(
                f"a file of texts also has {counted(len(unused), 'class name')} of no class here: {quoted(unused)}"
            )
    return said


def _temperatures(options: TableOptions, methods: Sequence[str], model_type: str) -> tuple[float, float, list[str]]:
    """The temperatures of images and texts, and a note where WCA runs with untuned ones."""
    defaults = default_temperatures(model_type)
    given = {"image_temperature": options.image_temperature, "text_temperature": options.text_temperature}
    own = {"image_temperature": defaults.image, "text_temperature": defaults.text}
    image, text = (check_temperature(own[name] if value is None else value, name) for name, value in given.items())
    said = []
    if "wca" in methods and not defaults.is_tuned and None in given.values():
        said.append(f"the temperatures of WCA were tuned for CLIP; none are published for {model_type}")
    return image, text, said


def _settings(
    images: LabelledImages, options: TableOptions, files: TextFiles, methods: Sequence[str]
) -> dict[str, Any]:
    """The settings of a run that follow from the dataset, the options and the installed versions."""
    return {
        "benchmark": BENCHMARK,
        "dataset": images.name,
        "split": images.split,
        "rows": len(images),
        "classes": len(images.classes),
        **{name: value for name, value in asdict(options).items() if name not in _NOT_SETTINGS},
        "methods": methods,
        "bounds": options.view_bounds,
        "texts_sha256": _digest(asdict(files)),
        "versions": versions(),
    }


def _write_predictions(output_dir: Path, features: FeatureFolder, scorer: DatasetScorer) -> None:
    """Score all images, and write a line for each."""
    with complete_file(output_dir / PREDICTIONS_NAME) as file:
        for batch in features.batches():
            for record in scorer.add(batch):
                file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


def _plans(
    options: TableOptions, methods: Sequence[str], proposer: RegionViews | None, draws: torch.Tensor | None
) -> tuple[list[ViewSet], dict[str, ViewPlan]]:
    kinds = options.views if "wca" in methods else ()
    if options.released:
        if draws is None:
            draws = draw_indices(options.pool, options.view_count, options.draws, options.seed)
        return plan_released_views(
            kinds, draws, pool=options.pool, seed=options.seed, proposer=proposer, bounds=options.view_bounds
        )
    return plan_views(
        kinds,
        view_count=options.view_count,
        seeds=options.all_seeds,
        proposer=proposer,
        bounds=options.view_bounds,
    )


def _draw_gallery(
    main: RowResult,
    images: LabelledImages,
    names: DistinctNames,
    features: FeatureFolder,
    numbers: Sequence[int],
    output_dir: Path,
    count: int,
    temperature: float,
) -> None:
    labels = images.labels[numbers]
    cases = []
    for position in worst_images(main, labels, count):
        batch = features.batch_with(numbers[position])
        explanation = explained(main, batch, batch.numbers.index(numbers[position]), temperature)
        label = names.names[names.of_classes[int(main.predicted[position])]]
        cases.append(gallery_case(main, images, images.classes, numbers[position], position, label, explanation))
    errors = int((main.predicted != labels).sum())
    note = f"{counted(errors, 'error')} of {counted(len(labels), 'image')}; the most confident errors come first"
    title = f"{images.name}: {main.row.title}"
    write_gallery(output_dir, cases, title=title, note=note, boxes=BOXES)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=True) + "\n").encode()


__all__ = ["BENCHMARK", "Table", "TableOptions", "classify_dataset"]
