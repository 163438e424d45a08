"""Level 3, scene graph: objects with depth and layer, relations and landmark, and all of it as text.

python -m processing.grand.scene_graph photos data/grand

No model runs. Without the steps `depth` and `landmark` the graph lacks layers and the kind of scene.
"""

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from datasets import Features, List, Value

from processing.grand.depth import median_depth, read_map
from processing.grand.detect import BOX
from processing.grand.job import Step, Worker, step_main
from processing.grand.models import one_by_one
from processing.grand.relations import RELATIONS
from processing.grand.scene import layers_of, scene_text
from processing.grand.work_folder import Row

OBJECTS = List(
    {
        "id": Value("int32"),
        "bbox": BOX,
        "labels": List(Value("string")),
        "label": Value("string"),
        "score": Value("float64"),
        "attributes": List(Value("string")),
        "depth": Value("float64"),
        "layer": Value("string"),
    }
)

FEATURES = Features(
    {
        "objects": OBJECTS,
        "floating_objects": OBJECTS,
        "captions": List(Value("string")),
        "relations": RELATIONS,
        "landmark": {"category": Value("string"), "fine_category": Value("string")},
        "text": Value("string"),
    }
)


def make_worker(args: Namespace) -> Worker:
    """Puts scene graphs together."""
    return one_by_one(scene_graph)


def scene_graph(row: Row) -> Row:
    """The scene graph of an image.

    Args:
        row (`dict`): with the columns of the steps `images`, `relations` and, where they ran, `depth` and `landmark`.

    Returns:
        `dict`: the columns of this step.
    """
    size = row["images"]["width"], row["images"]["height"]
    depth = read_map(row["depth"]) if row["depth"] else None
    graph = row["relations"]
    found: dict[str, list[dict[str, Any]]] = {}
    for name in ("objects", "floating_objects"):
        depths = [None if depth is None else median_depth(depth, each["bbox"], size) for each in graph[name]]
        found[name] = [
            {**each, "label": each["labels"][0], "depth": value, "layer": layer}
            for each, value, layer in zip(graph[name], depths, layers_of(depths), strict=True)
        ]
    landmark = {name: (row["landmark"] or {}).get(name, "") for name in ("category", "fine_category")}
    # An image without objects is told by what floats, as in GranD.
    told: Sequence[Mapping[str, Any]] = found["objects"] or found["floating_objects"]
    return {
        **found,
        "captions": graph["captions"],
        "relations": graph["relations"],
        "landmark": landmark,
        "text": scene_text(told, graph["captions"], graph["relations"], landmark, size),
    }


STEP = Step(
    name="scene_graph",
    level=3,
    does="put objects, depth, relations and landmark together",
    features=FEATURES,
    make_worker=make_worker,
    needs=("images", "relations"),
    reads=("depth", "landmark"),
)

main = partial(step_main, STEP, __doc__)

if __name__ == "__main__":
    sys.exit(main())
