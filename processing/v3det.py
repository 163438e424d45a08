"""V3Det to detection rows. Categories are dropped; crowds have a column of their own.

Get `v3det_2023_v1_train.json` and the images from https://v3det.openxlab.org.cn. The JSON calls an image
`images/a00000066/NAME.jpg`, one folder per category; `--images` is the folder that holds `images`, or `images` itself.

python -m processing.v3det --images V3Det --annotations V3Det/annotations/v3det_2023_v1_train.json \\
    --output data/v3det --shards 64 --engine ray
"""

import sys
from collections.abc import Sequence

from processing import coco


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    return coco.main(argv, description=__doc__, masks=False)


if __name__ == "__main__":
    sys.exit(main())
