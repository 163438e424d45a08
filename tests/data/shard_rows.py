"""Rows and images for tests of shards."""

from functools import partial
from pathlib import Path

from transformers_groma.data.columns import image_part, text_part
from transformers_groma.data.image_files import read_image_bytes
from transformers_groma.data.left_out import SkipRecord
from transformers_groma.data.shards import WriteReport, write_dataset

REPOSITORY = Path(__file__).parents[2]
PHOTO = REPOSITORY / "tests" / "fixtures" / "photos" / "cat_and_dog.jpg"


def chat_row(name: str, image=None) -> dict:
    shown = [] if image is None else [image_part()]
    return {
        "image": image,
        "image_id": name,
        "boxes_xyxy": [] if image is None else [[1.0, 2.0, 3.5, 4.0]],
        "messages": [
            {"role": "user", "content": [*shown, text_part(f"Hello {name}?")]},
            {"role": "assistant", "content": [text_part("Hello!")]},
        ],
        "source": "test",
    }


def convert_number(number: int, content: bytes | None = None):
    """Most numbers are a row, 3, 13, 23 ... are skipped, 7 is two rows."""
    if number % 10 == 3:
        raise SkipRecord("ends in three")
    for _ in range(2 if number == 7 else 1):
        yield chat_row(str(number), None if content is None or number % 2 else {"bytes": content, "path": None})


write_chat = partial(write_dataset, schema="conversation")


def parquet_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def read_one(name: str, folder: Path):
    """A row with the image of that name."""
    yield chat_row(name, {"bytes": read_image_bytes(folder / name), "path": name})


def write_photos(photos: Path, **more) -> WriteReport:
    names = [f"{number}.png" for number in range(4)]
    return write_chat(names, partial(read_one, folder=photos), output_dir=photos.parent / "rows", num_shards=2, **more)


def times(folder: Path) -> list[int]:
    return [path.stat().st_mtime_ns for path in sorted(folder.glob("*.parquet"))]
