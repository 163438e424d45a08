"""Level 1, objects: what two detectors agree on is an object; what one alone has seen floats until a phrase names it.

python -m processing.grand.objects photos data/grand --detectors owlv2 grounding-dino --lone-score .5

No model runs. Boxes of the detectors that come first are kept, so name those with the best boxes first. With a single
detector nothing can agree: then all boxes from `--lone-score` on are objects.
"""

import sys
from argparse import ArgumentParser, Namespace
from functools import partial

from datasets import Features, List, Value

from processing.endpoint_options import at_least
from processing.grand.agreement import AGREEMENT_IOU, merged
from processing.grand.detect import BOX
from processing.grand.job import Step, Worker, step_main
from processing.grand.models import one_by_one
from processing.grand.work_folder import Row, folders_of

OBJECTS = List({"id": Value("int32"), "bbox": BOX, "labels": List(Value("string")), "score": Value("float64")})

FEATURES = Features({"objects": OBJECTS, "floating_objects": OBJECTS})


def make_worker(args: Namespace) -> Worker:
    """Merges boxes."""
    names = [folder.removeprefix("detect.") for folder in folders_of(args.work, "detect")]
    if unknown := [name for name in args.detectors if name not in names]:
        raise ValueError(f"--detectors names {unknown[0]!r}, but the step `detect` ran as {', '.join(names)}.")

    def make(row: Row) -> Row:
        chosen = {name: row["detect"][name]["detections"] for name in args.detectors or names}
        objects, floating = merged(chosen, args.agreement, args.lone_score)
        return {"objects": objects, "floating_objects": floating}

    return one_by_one(make)


def add_options(parser: ArgumentParser) -> None:
    """Add the options of this step."""
    parser.add_argument(
        "--detectors",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names of the detections to merge, those with the best boxes first (default: all, by name)",
    )
    share = at_least(0, float, 1)
    parser.add_argument(
        "--agreement", type=share, default=AGREEMENT_IOU, metavar="X", help="IoU from which boxes agree (default: .65)"
    )
    parser.add_argument(
        "--lone-score",
        type=share,
        default=0.6,
        metavar="X",
        help="score from which a box that no other detector has is an object, too (default: .6)",
    )


STEP = Step(
    name="objects",
    level=1,
    does="merge the detectors' boxes by agreement",
    features=FEATURES,
    make_worker=make_worker,
    add_options=add_options,
    needs=("images", "detect"),
)

main = partial(step_main, STEP, __doc__)

if __name__ == "__main__":
    sys.exit(main())
