"""A dataset of the Hub as a source: streamed by `datasets`, shard by shard; nothing is downloaded as a whole."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ...data.left_out import LeftOut
from .parquet_files import image_of_row, known_columns
from .source_images import SourceColumns, SourceImage


@dataclass(frozen=True)
class HubDataset:
    """Which dataset is read.

    Args:
        repo_id (`str`): its name on the Hub.
        config (`str`, *optional*): one of its configurations.
        split (`str`): one of its splits.
        revision (`str`, *optional*): a branch, tag or commit.
    """

    repo_id: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None

    def open(self) -> Any:
        """The dataset as `datasets` streams it, images as files.

        Raises:
            ValueError: it cannot be read; the message says why and what to do.
        """
        from datasets import Image, load_dataset
        from datasets.exceptions import DatasetsError

        try:
            dataset = load_dataset(self.repo_id, self.config, split=self.split, revision=self.revision, streaming=True)
        except (DatasetsError, OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(
                f"the dataset {self.repo_id} cannot be read from the Hub ({type(error).__name__}: {reason}). Check "
                "its name, --config, --split and --source-revision; for a private or gated one log in with `hf auth "
                "login`; without a network pass the folder of its Parquet files."
            ) from error
        for name, feature in (dataset.features or {}).items():
            if isinstance(feature, Image):
                dataset = dataset.cast_column(name, Image(decode=False))
        return dataset


@dataclass(frozen=True)
class HubShard:
    """A shard of a dataset of the Hub.

    Args:
        dataset (`HubDataset`): the dataset, its revision a commit where that is known.
        columns (`SourceColumns`): the columns that are read, all of them known.
        index (`int`): number of the shard.
        num_shards (`int`): how many shards the dataset has.
        count (`int`, *optional*): how many rows it has.
        state (`str`): what is known of the version of the dataset.
    """

    dataset: HubDataset
    columns: SourceColumns
    index: int
    num_shards: int
    count: int | None
    state: str

    @property
    def name(self) -> str:
        """How messages name it."""
        return f"{self.dataset.repo_id}, shard {self.index} of {self.num_shards}"

    def images(self, start: int = 0) -> Iterator[SourceImage]:
        """Its images, in the order of its rows."""
        dataset = self.dataset.open()
        if self.num_shards > 1:
            dataset = dataset.shard(num_shards=self.num_shards, index=self.index)
        for number, row in enumerate(islice(dataset, start, None), start):
            place = f"{self.dataset.split}-{self.index:05d}/{number:07d}"
            yield _with_content(image_of_row(row, self.columns, place, None), row[self.columns.image])


def hub_shards(dataset: HubDataset, columns: SourceColumns) -> list[HubShard]:
    """The shards of a dataset of the Hub.

    Args:
        dataset (`HubDataset`): which one.
        columns (`SourceColumns`): the columns to read.

    Returns:
        `list[HubShard]`: as many as the dataset has files to stream.

    Raises:
        ValueError: it cannot be read, or lacks a column.
    """
    from datasets import Image, Value

    commit = _commit_of(dataset)
    dataset = HubDataset(dataset.repo_id, dataset.config, dataset.split, commit or dataset.revision)
    stream = dataset.open()
    features: Mapping[str, Any] = stream.features or dict.fromkeys(next(iter(stream), {}))
    # What is neither an image nor bytes cannot hold images; of other types nothing is said.
    types = {
        name: feature.pa_type if isinstance(feature, (Image, Value)) else _no_images() if feature is not None else None
        for name, feature in features.items()
    }
    known = known_columns(columns, types, f"the dataset {dataset.repo_id}")
    info = (stream.info.splits or {}).get(dataset.split)
    rows = getattr(info, "num_examples", None)
    count = stream.num_shards
    state = commit or f"{dataset.revision} {rows} {getattr(info, 'num_bytes', None)}"
    shared = None if rows is None else [rows // count + (index < rows % count) for index in range(count)]
    return [
        HubShard(dataset, known, index, count, None if shared is None else shared[index], state)
        for index in range(count)
    ]


def _commit_of(dataset: HubDataset) -> str | None:
    """The commit of a dataset, so that all shards, on all machines, are of one; `None` without a network."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    try:
        return HfApi().dataset_info(dataset.repo_id, revision=dataset.revision).sha
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError, OSError, ValueError):
        return None  # loading the dataset says what is wrong, or finds it in the cache


def _with_content(image: SourceImage, value: Any) -> SourceImage:
    """The image with its file, where the row has the address of it."""
    if not isinstance(value, Mapping) or value.get("bytes") is not None or not value.get("path"):
        return image
    import fsspec

    try:
        with fsspec.open(value["path"], "rb") as file:
            content: Any = file.read()
    except (OSError, ValueError) as error:
        content = LeftOut("the image of a row cannot be fetched", f"{type(error).__name__}: {error}")
    return SourceImage(image.image_id, image.file_name, content, image.regions, image.labels, image.left_out)


def _no_images() -> Any:
    import pyarrow as pa

    return pa.null()


__all__ = ["HubDataset", "HubShard", "hub_shards"]
