"""Objects365 v2 to detection rows. Categories are dropped; crowds have a column of their own.

Get `zhiyuan_objv2_train.json` and the images (archives `patch0` ... `patch50`) from https://www.objects365.org and
unpack the archives. The JSON calls an image `images/v1/patch8/objects365_v1_00420917.jpg`; below `--images` it may
are there, or in `v1/patch8/`, in `patch8/` (as the archives of the training split unpack) or directly in the folder. A
few images of the training split are annotated but in no archive; the report counts them as missing.

python -m processing.objects365 --images objects365/train --annotations objects365/zhiyuan_objv2_train.json \\
    --output data/objects365 --shards 512 --engine ray
"""

import sys
from collections.abc import Sequence

from processing import coco


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script with `argv`, by default the arguments of the command line."""
    return coco.main(argv, description=__doc__, masks=False)


if __name__ == "__main__":
    sys.exit(main())
