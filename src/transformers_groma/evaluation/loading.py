"""Models, datasets and benchmarks by their names, as the command line has them."""

import importlib
import os
from pathlib import Path
from typing import NamedTuple

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoImageProcessor
from transformers.image_processing_utils import BaseImageProcessor

from ..data.mixtures import load_rows, parse_dataset_spec
from ..model_files import base_of_adapter
from ..models.groma.modeling_groma import GromaForConditionalGeneration
from ..models.groma.modeling_groma_detector import GromaForRegionProposal
from ..models.groma.processing_groma import GromaProcessor
from .benchmark import Benchmark

DEFAULT_SPLIT = "test"
# Each has a `BENCHMARK`.
MODULES = {
    "rec": "rec",
    "lvis-ground": "lvis_ground",
    "region-caption": "region_caption",
    "grounded-caption": "grounded_caption",
    "detection": "detection",
}


class NamedRows(NamedTuple):
    """A dataset and where it comes from.

    Attributes:
        dataset (`Dataset`): its rows.
        name (`str`): folder, file or Hub name.
        split (`str`): of it; empty where there are none.
    """

    dataset: Dataset
    name: str
    split: str


def load_benchmark(name: str) -> Benchmark:
    """A benchmark by its name; llava-bench, which needs a judge, is in `judged.py`.

    Args:
        name (`str`): `"rec"`, `"lvis-ground"`, `"region-caption"`, `"grounded-caption"` or `"detection"`.

    Returns:
        `Benchmark`

    Raises:
        ValueError: there is no such benchmark.

    Example:
    >>> load_benchmark("rec").title
    'Referring expression comprehension'
    """
    if name not in MODULES:
        raise ValueError(f"There is no benchmark {name!r}. Use one of {', '.join(MODULES)}.")
    return importlib.import_module(f".benchmarks.{MODULES[name]}", __package__).BENCHMARK


def load_benchmark_rows(spec: str | os.PathLike, split: str | None = None) -> NamedRows:
    """The rows of a dataset by its name.

    Args:
        spec (`str` or `Path`): `PATH[@SPLIT]`: a folder with Parquet files, one file, or a Hub name.
        split (`str`, *optional*): where the spec names none; "test" without either.

    Returns:
        `NamedRows`

    Raises:
        FileNotFoundError: nothing of that name, or no such split.
        ValueError: the spec names another split than `split`, or a ratio.
    """
    spec = str(spec)
    named = parse_dataset_spec(spec, split or DEFAULT_SPLIT)
    if split is not None and named.split != split:
        raise ValueError(f"{spec!r} names the split {named.split!r} and `split` is {split!r}. Name one.")
    if named.ratio != 1:
        raise ValueError(f"{spec!r} has a ratio, which is for training. Name the dataset without it.")
    if Path(named.path).is_dir() and Path(named.path, "qa90_questions.jsonl").exists():
        raise ValueError(f"{named.path} has the published files of LLaVA-Bench. Use llava-bench, and `--images`.")
    return NamedRows(load_rows(named), named.path, named.split)


def load_model(
    name: str | os.PathLike,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    *,
    box_score_threshold: float | None = None,
    nms_threshold: float | None = None,
) -> tuple[GromaForConditionalGeneration | GromaForRegionProposal, GromaProcessor | BaseImageProcessor]:
    """A model and its processor by name.

    Args:
        name (`str` or `Path`): folder or Hub name of a Groma or of a detector.
        dtype (`str` or `torch.dtype`): of the weights; `"auto"` is as saved.
        device (`str` or `torch.device`): where it runs.
        box_score_threshold, nms_threshold (`float`, *optional*): in place of the model's own.

    Returns:
        `tuple`: the model in evaluation mode, and its processor (of a detector its image processor).

    Example:
    >>> model, _ = load_model("hub_configs/groma-tiny", nms_threshold=0.5)
    >>> model.config.nms_threshold
    0.5
    """
    config = AutoConfig.from_pretrained(base_of_adapter(name) or name)
    if box_score_threshold is not None:
        config.box_score_threshold = box_score_threshold
    if nms_threshold is not None:
        config.nms_threshold = nms_threshold
    if config.model_type == "groma":
        model = GromaForConditionalGeneration.from_pretrained(name, config=config, dtype=dtype)
        return model.to(device).eval(), GromaProcessor.from_pretrained(name)
    model = GromaForRegionProposal.from_pretrained(name, config=config, dtype=dtype)
    return model.to(device).eval(), AutoImageProcessor.from_pretrained(name)


__all__ = ["NamedRows", "load_benchmark", "load_benchmark_rows", "load_model"]
