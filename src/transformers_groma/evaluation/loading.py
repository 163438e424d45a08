"""Loads benchmarks, datasets and models by their names on the command line."""

import os
from pathlib import Path
from typing import NamedTuple

import torch
from datasets import Dataset
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.image_processing_utils import BaseImageProcessor

from ..data.mixtures import load_rows, parse_dataset_spec
from ..loading import load_config, load_weights
from ..loading_options import AS_SAVED, LoadingOptions
from ..models.groma.configuration_groma import GromaRegionProposalConfig
from ..models.groma.modeling_groma_detector import GromaForRegionProposal
from .benchmark import Benchmark
from .benchmarks import (
    detection,
    glamm_conversation,
    glamm_region_caption,
    glamm_segmentation,
    grounded_caption,
    grounded_conversation,
    interactive_segmentation,
    llava_bench,
    lvis_ground,
    phrase_grounding,
    rec,
    referring_segmentation,
    region_caption,
)

DEFAULT_SPLIT = "test"
BENCHMARKS = {
    "rec": rec.BENCHMARK,
    "lvis-ground": lvis_ground.BENCHMARK,
    "region-caption": region_caption.BENCHMARK,
    "grounded-caption": grounded_caption.BENCHMARK,
    "detection": detection.BENCHMARK,
    "referring-segmentation": referring_segmentation.BENCHMARK,
    "grounded-conversation": grounded_conversation.BENCHMARK,
    "phrase-grounding": phrase_grounding.BENCHMARK,
    "interactive-segmentation": interactive_segmentation.BENCHMARK,
    "llava-bench": llava_bench.BENCHMARK,
}
# Benchmarks with another protocol than their usual one, by name and protocol.
PROTOCOLS = {
    (benchmark.name, benchmark.protocol): benchmark
    for benchmark in (
        glamm_conversation.RELEASE_BENCHMARK,
        glamm_conversation.PAPER_BENCHMARK,
        glamm_segmentation.RELEASE_BENCHMARK,
        glamm_segmentation.PAPER_BENCHMARK,
        glamm_region_caption.RELEASE_BENCHMARK,
        glamm_region_caption.PAPER_BENCHMARK,
        phrase_grounding.GIVEN_CAPTION_BENCHMARK,
    )
}


class NamedRows(NamedTuple):
    """The rows of a dataset and where they come from.

    Attributes:
        dataset (`Dataset`): the rows.
        name (`str`): folder, file or Hub name.
        split (`str`): name of the split; empty where there are none.
    """

    dataset: Dataset
    name: str
    split: str


def load_benchmark(name: str, protocol: str | None = None) -> Benchmark:
    """Look up a benchmark by name.

    Args:
        name (`str`): one of `BENCHMARKS`, such as `"rec"` or `"grounded-conversation"`.
        protocol (`str`, *optional*): another protocol than its usual one: `"glamm-release"` or `"glamm-paper"` for
            `"grounded-conversation"`, `"referring-segmentation"` and `"region-caption"`, `"given-caption"` for
            `"phrase-grounding"`.

    Returns:
        `Benchmark`

    Raises:
        ValueError: there is no such benchmark, or it has no such protocol.

    Example:
    >>> load_benchmark("rec").title
    'Referring expression comprehension'
    """
    if name not in BENCHMARKS:
        raise ValueError(f"There is no benchmark {name!r}. Use one of {', '.join(BENCHMARKS)}.")
    if protocol is None:
        return BENCHMARKS[name]
    if (name, protocol) not in PROTOCOLS:
        own = [other for of_benchmark, other in PROTOCOLS if of_benchmark == name]
        others = [f"{other!r} of {of_benchmark}" for of_benchmark, other in PROTOCOLS]
        there = f"It has {' and '.join(map(repr, own))}" if own else f"There is {', '.join(others)}"
        raise ValueError(f"{name} has no protocol {protocol!r}. {there}; leave it out for the usual one.")
    return PROTOCOLS[name, protocol]


def load_benchmark_rows(spec: str | os.PathLike, split: str | None = None) -> NamedRows:
    """Load the rows of a dataset by its name.

    Args:
        spec (`str` or `Path`): `PATH[@SPLIT]`: a folder with Parquet files, one file, or a Hub name.
        split (`str`, *optional*): the split, if the spec names none; "test" without either.

    Returns:
        `NamedRows`

    Raises:
        FileNotFoundError: there is nothing of that name, or no such split.
        ValueError: the spec names another split than `split`, or a ratio; or the folder has the published files of a
            benchmark, which [`load_published_rows`] reads.
    """
    spec = str(spec)
    named = parse_dataset_spec(spec, split or DEFAULT_SPLIT)
    if split is not None and named.split != split:
        raise ValueError(f"{spec!r} names the split {named.split!r} and `split` is {split!r}. Name one.")
    if named.ratio != 1:
        raise ValueError(f"{spec!r} has a ratio, which is for training. Name the dataset without it.")
    for benchmark in BENCHMARKS.values():
        if any(Path(named.path, name).is_file() for name in benchmark.published_files):
            raise ValueError(
                f"{named.path} has the published files of {benchmark.title}. Use {benchmark.name}, and `--images`."
            )
    return NamedRows(load_rows(named), named.path, named.split)


def load_published_rows(
    benchmark: Benchmark, folder: str | os.PathLike, images: str | os.PathLike, split: str | None = None
) -> NamedRows:
    """Load the rows of a benchmark from the files that its authors published.

    Args:
        benchmark (`Benchmark`): a benchmark with `published_files`.
        folder (`str` or `Path`): folder of these files.
        images (`str` or `Path`): folder of the images.
        split (`str`, *optional*): must be left out, as these files have no splits.

    Returns:
        `NamedRows`

    Raises:
        FileNotFoundError: a file or an image is missing.
        ValueError: the benchmark has no such files, they have another layout, or a split is given.
    """
    if benchmark.read_published is None:
        raise ValueError(f"{benchmark.name} has no published files of its own: pass a dataset, without images.")
    if split is not None:
        raise ValueError(f"The published files have no splits, got {split!r}. Leave `split` out.")
    files = [Path(folder) / name for name in benchmark.published_files]
    return NamedRows(benchmark.read_published(files, Path(images)), str(folder), "")


def load_model(
    name: str | os.PathLike,
    device: str | torch.device = "cpu",
    options: LoadingOptions = AS_SAVED,
    *,
    box_score_threshold: float | None = None,
    nms_threshold: float | None = None,
) -> tuple[PreTrainedModel, ProcessorMixin | BaseImageProcessor]:
    """Load a model and its processor by name.

    Args:
        name (`str` or `Path`): folder or Hub name of a Groma, a GLaMM or a detector.
        device (`str` or `torch.device`): where the model runs.
        options (`LoadingOptions`): dtype, quantization and more; by default the model is loaded as it was saved.
        box_score_threshold, nms_threshold (`float`, *optional*): replace the model's own.

    Returns:
        `tuple`: the model in evaluation mode, and its processor; for a detector, its image processor.

    Raises:
        ValueError: a threshold for a model that proposes no regions, or options that do not fit the machine.

    Example:
    >>> model, _ = load_model("hub_configs/groma-tiny", nms_threshold=0.5)
    >>> model.config.nms_threshold
    0.5
    """
    config = load_config(name, options.revision)
    for option, value in (("box_score_threshold", box_score_threshold), ("nms_threshold", nms_threshold)):
        if value is None:
            continue
        if not hasattr(config, option):
            raise ValueError(
                f"`{option}` is of models that propose regions, and this one is a {config.model_type}. Leave it out."
            )
        setattr(config, option, value)
    if isinstance(config, GromaRegionProposalConfig):
        model = load_weights(GromaForRegionProposal, name, device, options, config)
        return model, AutoImageProcessor.from_pretrained(name, revision=options.revision)
    model = load_weights(AutoModelForImageTextToText, name, device, options, config)
    return model, AutoProcessor.from_pretrained(name, revision=options.revision)


__all__ = [
    "BENCHMARKS",
    "PROTOCOLS",
    "NamedRows",
    "load_benchmark",
    "load_benchmark_rows",
    "load_model",
    "load_published_rows",
]
