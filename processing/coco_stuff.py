"""COCO-Stuff to conversations with masks: questions for things and stuff, several about an image.

Get `stuffthingmaps_trainval2017.zip` and `labels.txt` from https://github.com/nightrome/cocostuff, and `train2017.zip`
from https://cocodataset.org/#download:

python -m processing.coco_stuff --wording glamm --images coco/train2017 --labels stuffthingmaps/train2017 \\
    --classes labels.txt --output data/coco_stuff --shards 64

One row per image, about all of its classes: `groma train glamm` asks about some at a time, and `--questions` limits a
row. All pixels of a class are one region. As in GLaMM's training nothing is asked about classes with a hyphen in their
name ("wall-brick"), nor about unlabeled pixels (255).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from processing.label_maps import Classes, run_label_maps
from processing.rows import category_name
from transformers_groma._text import read_text, split_lines

UNLABELED = 255


def load_classes(path: Path) -> Classes:
    """Read the classes of COCO-Stuff.

    Args:
        path (`Path`): `labels.txt`: a line `NUMBER: NAME` for each class, from `0: unlabeled` on. In the maps numbers
            are lower by one.

    Returns:
        `Classes`: those with a hyphen, and unlabeled pixels, are ignored.

    Raises:
        ValueError: a file of another layout.
    """
    names: dict[int, str] = {}
    ignored = {UNLABELED}
    for line in split_lines(read_text(path)):
        number, colon, name = line.partition(":")
        if not line.strip():
            continue
        if not (colon and number.strip().isdecimal() and name.strip()):
            raise ValueError(f"{path} is not COCO-Stuff's `labels.txt`: {line!r} is not `NUMBER: NAME`.")
        value = int(number) - 1
        if value in names or value in ignored:
            raise ValueError(f"{path} has the number {int(number)} twice.")
        if value < 0 or "-" in name:
            ignored.add(value)
        else:
            names[value] = category_name(name)
    if not names:
        raise ValueError(f"{path} has no classes: it should have lines `NUMBER: NAME`.")
    return Classes(names, frozenset(ignored))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    return run_label_maps(__doc__, load_classes, "coco_stuff", "`labels.txt` of COCO-Stuff", argv)


if __name__ == "__main__":
    sys.exit(main())
