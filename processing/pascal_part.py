"""Pascal-Part to conversations with masks: questions for parts of objects, several about an image.

Get `train.json` as https://github.com/facebookresearch/VLPart/tree/main/datasets#pascal-part makes it, and the images
of VOC2010:

python -m processing.pascal_part --wording glamm --images VOCdevkit/VOC2010/JPEGImages \\
    --annotations pascal_part/train.json --output data/pascal_part --shards 4

One row per image, about all of its categories: `groma train glamm` asks about some at a time, and `--questions` limits
a row. A part is called "dog head" or "the head of the dog". The answer has all of an image's, each a region.
"""

import sys
from collections.abc import Sequence

from processing.part_segmentation import run_parts


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    return run_parts(__doc__, "pascal_part", argv)


if __name__ == "__main__":
    sys.exit(main())
