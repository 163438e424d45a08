"""The index of the images: every image of a folder and below that can be read, with its size, spread over shards.

python -m processing.grand.images photos data/grand --shards 16

Run it again after images were added: what later steps have made of the others stays. The id of an image is its name
without folder and suffix, as GranD's files have no other; of images that share one, none is taken.
"""

import hashlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath

from datasets import Features, Value

from processing.common import positive_int
from processing.grand.job import Step, Worker, step_main, step_parser
from processing.grand.models import one_by_one
from processing.grand.work_folder import Row, write_number_of_shards
from transformers_groma.data.image_files import inside, read_image_bytes, upright_size
from transformers_groma.data.left_out import SkipRecord

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

FEATURES = Features(
    {
        "file_name": Value("string"),
        "width": Value("int32"),
        "height": Value("int32"),
        "digest": Value("string"),
    }
)


def add_options(parser: ArgumentParser) -> None:
    """Add the options of this step."""
    parser.add_argument(
        "--shards", type=positive_int, default=1, metavar="N", help="number of Parquet files of each step (default: 1)"
    )
    parser.add_argument("--limit", type=positive_int, metavar="N", help="take the first N images only, to try it out")


def sources(args: Namespace) -> Mapping[str, Row]:
    """The files of the folder by image id."""
    return dict(list(_listing(args.images).items())[: args.limit])


@lru_cache(maxsize=1)
def _listing(folder: Path) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        # Names may hold half a character (a lone surrogate), which no column can: such a name can't be opened again.
        name = path.relative_to(folder).as_posix().encode(errors="backslashreplace").decode()
        state = path.stat()
        row = {"file_name": name, "bytes": state.st_size, "time": state.st_mtime_ns}
        known = found.setdefault(PurePosixPath(name).stem, {"file": row, "others": []})
        if known["file"] is not row:
            known["others"].append(name)
    return found


def make_worker(args: Namespace) -> Worker:
    """Reads and checks images."""
    return one_by_one(partial(_checked, args.images))


def _checked(folder: Path, row: Row) -> Row:
    name = row["file"]["file_name"]
    if row["others"]:
        raise SkipRecord("images with the same name but for folder and suffix", ", ".join([name, *row["others"]]))
    content = read_image_bytes(inside(folder, folder / name))
    width, height = upright_size(content)
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    return {"file_name": name, "width": width, "height": height, "digest": digest}


STEP = Step(
    name="images",
    level=0,
    does="index the images, with their sizes",
    features=FEATURES,
    make_worker=make_worker,
    add_options=add_options,
    sources=sources,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step."""
    args = step_parser(STEP, __doc__).parse_args(argv)
    _listing.cache_clear()
    try:
        write_number_of_shards(args.work, args.shards)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return step_main(STEP, __doc__, argv)


if __name__ == "__main__":
    sys.exit(main())
