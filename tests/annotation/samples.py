"""Small sources of scenes, of each kind."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from transformers_groma.data.annotation_columns import AnnotatedImage, read_annotations
from transformers_groma.shapes.scenes import make_scene

TINY = Path(__file__).parents[2] / "hub_configs" / "groma-tiny"
GLAMM = Path(__file__).parents[2] / "hub_configs" / "glamm-tiny"


def scene(index: int):
    """A scene that no tiny model has seen."""
    return make_scene(0, "test", index, 224)


def png(index: int) -> bytes:
    """A scene as a PNG file."""
    buffer = io.BytesIO()
    scene(index).draw().save(buffer, format="PNG")
    return buffer.getvalue()


def opened(content: bytes) -> Image.Image:
    """The image of a file."""
    return Image.open(io.BytesIO(content))


def write_photos(folder: Path, count: int) -> Path:
    """A folder of scenes; every third is in a folder of its own."""
    for index in range(count):
        path = folder / ("more" if index % 3 == 2 else "") / f"s{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(index))
    return folder


def write_rows(path: Path, indices, **columns) -> Path:
    """A Parquet file of scenes with ids and boxes, as `datasets` would write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "image": {"bytes": png(index), "path": f"s{index}.png"},
            "image_id": f"scene {index}",
            "objects": {
                "bbox": [list(map(float, box)) for box in scene(index).boxes_xyxy],
                "name": [thing.attributes.shape for thing in scene(index).objects],
            },
            **columns,
        }
        for index in indices
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """A tar of files."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample(index: int) -> dict[str, bytes]:
    """The files of a sample of WebDataset."""
    meta = {"boxes": [list(map(float, box)) for box in scene(index).boxes_xyxy]}
    return {f"{index:05d}.png": png(index), f"{index:05d}.json": json.dumps(meta).encode()}


def rows_of(folder: Path) -> dict[str, AnnotatedImage]:
    """The rows of an output folder, by name."""
    return {row.image_id: row for row in read_annotations(folder)}


def files_of(folder: Path) -> dict[str, bytes]:
    """The shards of an output folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}
