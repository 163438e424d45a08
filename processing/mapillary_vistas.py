"""Mapillary Vistas to conversations with masks: questions for what a street shows, several about an image.

Get version 2.0 from https://www.mapillary.com/dataset/vistas:

python -m processing.mapillary_vistas --wording glamm --images mapillary/training/images \\
    --labels mapillary/training/v2.0/labels --classes mapillary/config_v2.0.json --output data/mapillary --shards 64

One row per image, about all of its classes: `groma train glamm` asks about some at a time, and `--questions` limits a
row. All pixels of a class are one region. Nothing is asked about classes that the dataset does not evaluate, such as
"unlabeled" and "ego vehicle".
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from processing.coco_format import read_json
from processing.label_maps import Classes, run_label_maps
from processing.rows import category_name


def load_classes(path: Path) -> Classes:
    """Read the classes of Mapillary Vistas.

    Args:
        path (`Path`): `config_v2.0.json`: its `labels` are in the order of their numbers, with a `readable` name and
            `evaluate`.

    Returns:
        `Classes`: those that are not evaluated are ignored.

    Raises:
        ValueError: a file of another layout.
    """
    content = read_json(path)
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, list) or not labels:
        raise ValueError(f"{path} is not Mapillary's `config_v2.0.json`: it needs a list `labels`.")
    names: dict[int, str] = {}
    ignored = set()
    for number, label in enumerate(labels):
        name = label.get("readable") if isinstance(label, dict) else None
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{path} is not Mapillary's `config_v2.0.json`: label {number} has no `readable` name.")
        if label.get("evaluate", True):
            names[number] = category_name(name)
        else:
            ignored.add(number)
    return Classes(names, frozenset(ignored))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    return run_label_maps(__doc__, load_classes, "mapillary_vistas", "`config_v2.0.json` of Mapillary Vistas", argv)


if __name__ == "__main__":
    sys.exit(main())
