"""Writes metrics of `groma evaluate` into a model card, where the Hub reads them.

`model-index` in the metadata of `README.md` holds all metrics. `.eval_results/*.yaml` holds the main metric of runs on
all rows of a dataset of the Hub: it appears on the model's page and in the leaderboard of the dataset, if that is
registered as a benchmark with these task ids (https://huggingface.co/docs/hub/eval-results).
"""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCard,
    constants,
    eval_result_entries_to_yaml,
    parse_eval_result_entries,
)
from huggingface_hub.utils import yaml_dump

from ..._files import write_files
from ...hub_names import has_owner_and_name
from ...model_cards import fill_card
from .report import Results, read_results

SOURCE_NAME = "transformers-groma"
SOURCE_URL = "https://github.com/transformers-groma/transformers-groma"
# Two digits more than papers print.
DIGITS = 5
EMPTY_CARD = Path(__file__).with_name("empty_card.md")
# `owner/name`, as the Hub allows it. A folder on this machine is not a dataset of the Hub, whatever its name.
_NOT_IN_FILE_NAMES = re.compile(r"[^\w.-]+")


class _Task(NamedTuple):
    """How the Hub describes a benchmark: its task and its main metric."""

    task_type: str
    task_name: str
    main_metric: str


TASKS = {
    "rec": _Task("referring-expression-comprehension", "Referring expression comprehension", "acc@0.5"),
    "lvis-ground": _Task("visual-grounding", "Finding all objects of a category", "ar"),
    "region-caption": _Task("region-captioning", "Region captioning", "cider"),
    "grounded-caption": _Task("grounded-captioning", "Grounded captioning", "f1@0.5"),
    "detection": _Task("object-detection", "Region proposals without classes", "queries_ap"),
    "referring-segmentation": _Task("image-segmentation", "Referring segmentation", "ciou"),
    "grounded-conversation": _Task("grounded-conversation", "Grounded conversation generation", "mask_recall"),
    "phrase-grounding": _Task("phrase-grounding", "Phrase grounding", "recall@0.5"),
    "interactive-segmentation": _Task("mask-generation", "Interactive segmentation", "miou@1"),
    "llava-bench": _Task("visual-question-answering", "LLaVA-Bench, scored by a judge", "relative_score"),
}


def add_results_to_card(
    model_dir: str | os.PathLike, results_paths: Sequence[str | os.PathLike] | str | os.PathLike
) -> list[Path]:
    """Write the metrics of runs into the card of a model.

    They replace earlier metrics of the same benchmark, protocol, dataset and split. Everything else in the card stays:
    other metrics, other metadata, the text. A folder without a card gets one.

    Args:
        model_dir (`str` or `Path`): folder of the model.
        results_paths (`Sequence` of `str` or `Path`, or one): `results.json` files, or the folders they are in.

    Returns:
        `list[Path]`: the files that were written: `README.md`, and `.eval_results/*.yaml` of runs on datasets of the
            Hub.

    Raises:
        FileNotFoundError: no such folder, or no results in it.
        ValueError: no results given, an unfinished run, a file that does not hold results, or a card that cannot be
            read.

    Example:
    >>> import json, tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "README.md").write_text("---\\nlicense: apache-2.0\\n---\\n# My Groma\\n")
    >>> results = {"benchmark": "rec", "metrics": {"acc@0.5": 0.8953}, "asked": 10834, "seconds": 1.0}
    >>> results |= {"complete": True, "settings": {"dataset": "org/refcoco", "split": "val", "rows": 10834}}
    >>> _ = (folder / "results.json").write_text(json.dumps(results))
    >>> [path.name for path in add_results_to_card(folder, folder / "results.json")]
    ['README.md', 'rec-org-refcoco-val.yaml']
    >>> ModelCard.load(folder / "README.md").data.eval_results[0].metric_value
    0.8953
    """
    model_dir = Path(model_dir)
    if not model_dir.is_dir():
        raise FileNotFoundError(f"`model_dir` {str(model_dir)!r} is not a folder. Pass the folder of the model.")
    if isinstance(results_paths, (str, os.PathLike)):
        results_paths = [results_paths]
    if not results_paths:
        raise ValueError("`results_paths` is empty. Pass the results.json of at least one run.")
    # Read everything before anything is written.
    runs = [_read_run(Path(path)) for path in results_paths]
    card = _read_card(model_dir)
    results = list(card.data.eval_results or [])
    for run in runs:
        new = _eval_results(run)
        replaced = {_identity(result) for result in new}
        results = [result for result in results if _identity(result) not in replaced] + new
    card.data.eval_results = results
    card.data.model_name = card.data.model_name or model_dir.resolve().name
    contents = {model_dir / "README.md": str(card)}
    ModelCard(contents[model_dir / "README.md"])  # its metadata can be read again, or this raises
    for run in runs:
        for name, content in _hub_eval_results(run):
            contents[model_dir / constants.EVAL_RESULTS_FOLDER / name] = content
    write_files({path: content.encode() for path, content in contents.items()})
    return list(contents)


def _read_run(path: Path) -> Results:
    """The results of a finished run."""
    run = read_results(path)
    if run.benchmark not in TASKS:
        raise ValueError(f"{path} is of the benchmark {run.benchmark!r}; known are {', '.join(TASKS)}.")
    if not run.complete:
        raise ValueError(f"{path} is from an unfinished run. Start `groma evaluate` again to resume it.")
    if not run.metrics:
        raise ValueError(
            f"{path} has no metrics. LLaVA-Bench has them after `groma evaluate llava-bench` with `--judge`."
        )
    if not run.settings.get("dataset"):
        raise ValueError(f"{path} does not name its dataset. Put the name into `settings`, `dataset`.")
    return run


def _read_card(model_dir: Path) -> ModelCard:
    path = model_dir / "README.md"
    if not path.exists():
        return ModelCard(fill_card(EMPTY_CARD, name=model_dir.resolve().name))
    try:
        # Bytes, because reading text would change its line endings.
        return ModelCard(path.read_bytes().decode("utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"The metadata of {path} cannot be read ({error}). Correct it, or remove the file."
        ) from error


def _is_on_hub(run: Results) -> bool:
    dataset = run.settings["dataset"]
    is_local = run.settings.get("local_dataset", False) or Path(dataset).exists()
    return has_owner_and_name(dataset) and not is_local


def _eval_results(run: Results) -> list[EvalResult]:
    """All metrics of a run, except those without anything to measure (below 0, following COCO)."""
    task = TASKS[run.benchmark]
    dataset, split = run.settings["dataset"], run.settings.get("split")
    # The last name of a path alone: the rest stays private.
    dataset = dataset if _is_on_hub(run) else Path(dataset).name
    # Scores of different judges, protocols and encoders of phrases, or of a quantized model, cannot be compared.
    named = ("rows", "judge", "protocol", "text_similarity", "quantization")
    dataset_args = {name: run.settings[name] for name in named if run.settings.get(name) is not None}
    return [
        EvalResult(
            task_type=task.task_type,
            task_name=task.task_name,
            dataset_type=dataset,
            dataset_name=f"{dataset} ({split})" if split else dataset,
            dataset_config=run.settings.get("protocol"),
            dataset_split=split or None,
            dataset_args=dataset_args,
            metric_type=name,
            metric_name=name,
            metric_value=round(value, DIGITS),
            source_name=SOURCE_NAME,
            source_url=SOURCE_URL,
        )
        for name, value in run.metrics.items()
        if math.isfinite(value) and value >= 0
    ]


def _identity(result: EvalResult) -> tuple[str | None, ...]:
    """Benchmark, dataset, protocol and split: a newer result replaces those with the same."""
    return result.task_type, result.dataset_type, result.dataset_config, result.dataset_split


def _hub_eval_results(run: Results) -> list[tuple[str, str]]:
    """Name and content of the file in `.eval_results`, where the run has one."""
    main_metric = TASKS[run.benchmark].main_metric
    value = run.metrics.get(main_metric, math.nan)
    dataset, split = run.settings["dataset"], run.settings.get("split")
    # A part of the rows (`--limit`) does not compare with what others report for all of them, and a quantized model is
    # not the one whose weights are here.
    compares = run.settings.get("limit") is None and run.settings.get("quantization") is None
    if not compares or not _is_on_hub(run) or not math.isfinite(value) or value < 0:
        return []
    protocol = run.settings.get("protocol")
    # Answers of another protocol belong to a task of their own.
    benchmark = run.benchmark if protocol is None else f"{run.benchmark}-{protocol}"
    entry = EvalResultEntry(
        dataset_id=dataset,
        task_id=f"{benchmark}_{split}" if split else benchmark,
        value=round(value, DIGITS),
        source_url=SOURCE_URL,
        source_name=SOURCE_NAME,
        notes=f"{main_metric}, {run.settings['rows']} rows",
    )
    entries = eval_result_entries_to_yaml([entry])
    parse_eval_result_entries(entries)
    name = "-".join(_NOT_IN_FILE_NAMES.sub("-", word) for word in (benchmark, dataset, split) if word)
    return [(f"{name}.yaml", yaml_dump(entries))]


__all__ = ["add_results_to_card"]
