"""The card of a dataset: its columns, the conventions of its boxes, its splits, its licence, how to load it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, LargeList, List, Value

from ..data.annotation_columns import ANNOTATION_FEATURES
from ..data.columns import FEATURES
from ..data.mixtures import PROPOSAL_COLUMNS
from ..model_cards import fill_card
from .dataset_files import DatasetConfig

TEMPLATE = Path(__file__).with_suffix(".md")

# The kinds of rows, each told by columns that the kinds after it lack.
COLUMNS_OF_KINDS = {
    "annotation": tuple(ANNOTATION_FEATURES),
    "evaluation": tuple(FEATURES["evaluation"]),
    "conversation": tuple(FEATURES["conversation"]),
    "detection": tuple(FEATURES["detection"]),
}
OWN_COLUMNS = {
    "image": "the image as its file has it; null in a row of plain text",
    "image_id": "name of the image in its source",
    "source": "the dataset that the row comes from; in a detection row which objectness learns from it",
    "boxes_xyxy": "boxes, see below",
    "crowd_boxes_xyxy": "boxes around many objects that were not counted one by one",
    "masks": "a mask for each of `boxes_xyxy`, or null",
    "crowd_masks": "a mask for each of `crowd_boxes_xyxy`, or null",
    "messages": "the conversation: turns of parts `text`, `image`, `region` and `phrase`; `boxes` are indices into "
    "`boxes_xyxy`",
    "references": "the captions that an answer is compared with",
    "target_boxes_xyxy": "the boxes that an answer is compared with",
    "target_masks": "a mask for each of `target_boxes_xyxy`, or null",
    "category": "the category that a question is about",
    PROPOSAL_COLUMNS[0]: "proposals of a frozen detector, as normalized `cxcywh`",
    PROPOSAL_COLUMNS[1]: "how sure the detector is of each proposal",
}
ANNOTATION_COLUMNS = {
    "image_id": "name of the image, unique in the dataset",
    "file_name": "where the image is in its source, which is not part of this dataset",
    "width": "of the upright image, in pixels",
    "height": "of the upright image, in pixels",
    "text": "the caption",
    "markup": "the caption as the model wrote it, with its marks",
    "phrases": "phrases of the caption: `start` and `end` count characters of `text`, `region_ids` name `regions`",
    "located": "phrases that were asked for, and the ids of the regions that were found",
    "regions": "id, box (see below), score, origin, label, description and mask of each region",
}
# As the Hub sorts datasets by their rows: below each of these.
_SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
_SIZE_NAMES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")


def dataset_card(name: str, configs: Sequence[DatasetConfig], license: str | None = None) -> str:
    """Write the card of a dataset that has none.

    Args:
        name (`str`): of the dataset on the Hub, `ORG/NAME`.
        configs (`Sequence[DatasetConfig]`): its parts.
        license (`str`, *optional*): its identifier on the Hub, such as `cc-by-4.0`; the card says if there is none.

    Returns:
        `str`: Markdown with metadata that `datasets.load_dataset` reads.
    """
    schema = {field.name: field for config in configs for field in config.schema}
    kind = kind_of_rows(list(schema))
    described = ANNOTATION_COLUMNS if kind == "annotation" else OWN_COLUMNS
    features = {one: value for config in configs for one, value in _features(config.schema).items()}
    rows = sum(sum(config.rows.values()) for config in configs)
    return fill_card(
        TEMPLATE,
        name=name,
        title=name.rpartition("/")[2],
        kind=kind,
        license=license,
        size=_size_category(rows),
        configs=[config_metadata(config) for config in configs],
        parts=[
            (config.name, split, config.rows[split], len(files))
            for config in configs
            for split, files in config.splits.items()
        ],
        columns=[(column, _type_name(features[column]), described.get(column, "")) for column in schema],
        has_boxes=any("xyxy" in column for column in schema) or kind == "annotation",
        has_masks=any("masks" in column for column in schema) or kind == "annotation",
        sources=_sources(configs) if "source" in schema else [],
    )


def kind_of_rows(columns: Sequence[str]) -> str:
    """The kind of rows that have these columns.

    Args:
        columns (`Sequence[str]`): names of the columns.

    Returns:
        `str`: `"annotation"` (what `groma annotate` writes), `"evaluation"`, `"conversation"`, `"detection"`, or
            `"other"`.

    Example:
    >>> kind_of_rows(["image", "image_id", "boxes_xyxy", "source", "masks"]), kind_of_rows(["image", "label"])
    ('detection', 'other')
    """
    return next((kind for kind, names in COLUMNS_OF_KINDS.items() if set(names) <= set(columns)), "other")


def config_metadata(config: DatasetConfig) -> dict[str, Any]:
    """What the metadata of the card says about a part, so that `load_dataset` finds its splits.

    Args:
        config (`DatasetConfig`): the part.

    Returns:
        `dict`: `config_name` and `data_files`.
    """
    head = "" if config.name == "default" else f"{config.name}/"
    return {
        "config_name": config.name,
        "data_files": [
            # One pattern for all shards: a dataset may have thousands of them.
            {"split": split, "path": head + (files[0].name if len(files) == 1 else f"{split}-*.parquet")}
            for split, files in config.splits.items()
        ],
    }


def _features(schema: pa.Schema) -> dict[str, Any]:
    return dict(Features.from_arrow_schema(schema))


def _type_name(feature: Any) -> str:
    """A type in words: `list of list of 4 float32`."""
    if isinstance(feature, Mapping):
        return "{" + ", ".join(f"{name}: {_type_name(value)}" for name, value in feature.items()) + "}"
    if isinstance(feature, (List, LargeList)):
        length = getattr(feature, "length", -1)
        return f"list of {f'{length} ' if length >= 0 else ''}{_type_name(feature.feature)}"
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__.lower()


def _sources(configs: Sequence[DatasetConfig]) -> list[tuple[str, int]]:
    """How many rows come from each source."""
    counts: Counter[str] = Counter()
    for path in (path for config in configs for path in config.files() if "source" in config.schema.names):
        for value in pq.read_table(path, columns=["source"])["source"].value_counts().to_pylist():
            counts[str(value["values"])] += value["counts"]
    return counts.most_common()


def _size_category(rows: int) -> str:
    """The Hub's word for a number of rows."""
    for position, limit in enumerate(_SIZES):
        if rows < limit:
            return f"{_SIZE_NAMES[position - 1]}<n<{_SIZE_NAMES[position]}" if position else f"n<{_SIZE_NAMES[0]}"
    return f"n>{_SIZE_NAMES[-1]}"


__all__ = ["ANNOTATION_COLUMNS", "OWN_COLUMNS", "config_metadata", "dataset_card", "kind_of_rows"]
