"""Images for handmade samples, and the paths of the real samples."""

import json
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from PIL import Image

from transformers_groma.data.columns import check_dataset

REALDATA = Path(__file__).parents[3] / "shared" / "realdata"


def real_sample(name: str) -> Path:
    """A folder of real data beside the checkout, which is not part of the repository."""
    folder = REALDATA / name
    if not folder.exists():
        pytest.skip(f"real samples are not beside this checkout (../shared/realdata/{name})")
    return folder


def write_jpeg(path: Path, width: int, height: int, orientation: int | None = None) -> Path:
    """A small JPEG, gradient from black to white; `orientation` is that of EXIF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(path, exif=exif)
    return path


def write_json(path: Path, content: object) -> Path:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def read_rows(folder: Path, schema: str, split: str = "train") -> Dataset:
    """The dataset in a folder as a user loads it, every row checked."""
    rows = load_dataset(str(folder), split=split, cache_dir=str(folder / ".cache"))
    check_dataset(rows, schema)
    return rows


def read_report(folder: Path) -> dict:
    """The report of a dataset of one shard."""
    (path,) = folder.glob("*.report.json")
    return json.loads(path.read_text())
