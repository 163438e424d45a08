"""PACO-LVIS to conversations with masks: questions for objects and their parts, several about an image.

Get `paco_lvis_v1.zip` from https://github.com/facebookresearch/paco and the images of COCO 2017 (`--images` is the
folder that holds `train2017` and `val2017`, or one of them):

python -m processing.paco --wording glamm --images coco/train2017 \\
    --annotations paco_lvis_v1/paco_lvis_v1_train.json --output data/paco --shards 16

One row per image, about all of its categories: `groma train glamm` asks about some at a time, and `--questions` limits
a row. A part is called "trash can handle" or "the handle of the trash can". The answer has all objects of a category,
each a region; categories that the file calls not exhaustively annotated in an image are left out.
"""

import sys
from collections.abc import Sequence

from processing.part_segmentation import run_parts


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    return run_parts(__doc__, "paco_lvis", argv)


if __name__ == "__main__":
    sys.exit(main())
