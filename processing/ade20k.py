"""ADE20K to conversations with masks: questions for the classes of a scene, several about an image.

Get `ADEChallengeData2016.zip` from http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip:

python -m processing.ade20k --wording glamm --images ADEChallengeData2016/images/training \\
    --labels ADEChallengeData2016/annotations/training --classes ADEChallengeData2016/objectInfo150.txt \\
    --output data/ade20k --shards 16

One row per image, about all of its classes: `groma train glamm` asks about some at a time, and `--questions` limits a
row. All pixels of a class are one region. Nothing is asked about pixels of number 0. Of a class with several names
("building, edifice") the first is used.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from processing.label_maps import Classes, run_label_maps
from processing.rows import category_name
from transformers_groma._text import read_text, split_lines


def load_classes(path: Path) -> Classes:
    """Read the classes of ADE20K.

    Args:
        path (`Path`): `objectInfo150.txt`: lines of columns with tabs between them, the number of a class first and
            its names last.

    Returns:
        `Classes`: number 0 is ignored.

    Raises:
        ValueError: a file of another layout.
    """
    names: dict[int, str] = {}
    for line in split_lines(read_text(path)):
        columns = line.split("\t")
        number, name = columns[0].strip(), category_name(re.split("[,;]", columns[-1])[0])
        if not number.isdecimal():
            continue  # the header, and empty lines
        if len(columns) < 2 or not name or int(number) in names:
            raise ValueError(
                f"{path} is not ADE20K's `objectInfo150.txt`: {line!r} is not a number and names of its own."
            )
        names[int(number)] = name
    if not names:
        raise ValueError(
            f"{path} is not ADE20K's `objectInfo150.txt`: it has no lines of a class number, tabs and names."
        )
    return Classes(names, frozenset({0}))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    return run_label_maps(__doc__, load_classes, "ade20k", "`objectInfo150.txt` of ADE20K", argv)


if __name__ == "__main__":
    sys.exit(main())
