"""The annotations: one JSON file an image in GranD's layout, `WORK/annotations/IMAGE.json`.

python -m processing.grand.export photos data/grand
python -m processing.grand_dataset --task grounded-caption --images photos --annotations data/grand/annotations \\
    --output data/grand_grounded_caption

The second command makes conversations of them. A dense caption that the checklist did not verify is not in the file;
neither is what a step that has not run would add.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Features, Value

from processing.grand.job import Step, Worker, step_main
from processing.grand.models import one_by_one
from processing.grand.phrases import occurrences
from processing.grand.work_folder import Row, number_of_shards, read_shard, shard_path
from transformers_groma._files import write_file

FOLDER = "annotations"

FEATURES = Features({"annotation": Value("string")})


def grand_annotation(row: Row) -> dict[str, Any]:
    """The annotation of an image as GranD's files have it.

    Args:
        row (`dict`): with the columns of `images`, `scene_graph` and, where they ran, `dense_caption`, `extra_context`
            and `masks`.

    Returns:
        `dict`: the name of the image, and under it `objects`, `floating_objects` (boxes `xyxy` in pixels, masks COCO
        RLE), `relationships`, `landmark`, `short_captions`, `dense_caption` and `additional_context`.
    """
    graph = row["scene_graph"]
    masks = {mask["id"]: mask for mask in row["masks"]["masks"]} if row["masks"] else {}
    objects, floating = (
        [_object(each, masks.get(each["id"])) for each in graph[name]] for name in ("objects", "floating_objects")
    )
    boxes = {each["id"]: each["bbox"] for each in [*objects, *floating]}
    named = {number for relation in graph["relations"] for number in relation["object_ids"]}
    annotation: dict[str, Any] = {
        "objects": objects,
        "floating_objects": floating,
        "relationships": {
            "object_ids": [each["id"] for each in objects if each["id"] in named],
            "floating_object_ids": [each["id"] for each in floating if each["id"] in named],
            "grounding": [
                {"phrase": each["phrase"], "object_ids": list(each["object_ids"])} for each in graph["relations"]
            ],
        },
        "landmark": {name: graph["landmark"][name] for name in ("category", "fine_category")},
        "id_counter": max(boxes, default=-1) + 1,
        "short_captions": [short_caption(text, graph["relations"], boxes) for text in graph["captions"]],
    }
    dense = row["dense_caption"]
    if dense is not None and dense["is_verified"]:
        annotation["dense_caption"] = {
            "caption": dense["caption"],
            "details": [
                {
                    "phrase": dense["caption"][each["start"] : each["end"]],
                    "tokens_positive": [each["start"], each["end"]],
                    "ids": list(each["ids"]),
                    "bbox": [boxes[number] for number in each["ids"]],
                }
                for each in dense["phrases"]
            ],
        }
    if row["extra_context"] is not None:
        annotation["additional_context"] = row["extra_context"]["context"]
    return {Path(row["images"]["file_name"]).name: annotation}


def short_caption(
    text: str, relations: Sequence[Mapping[str, Any]], boxes: Mapping[int, Sequence[float]]
) -> dict[str, Any]:
    """A short caption with its phrases, each with the first place where it stands and its first object.

    Args:
        text (`str`): the caption.
        relations (`Sequence[Mapping]`): `phrase` and `object_ids`.
        boxes (`Mapping[int, Sequence[float]]`): of objects by their id, `xyxy` in pixels.

    Returns:
        `dict`: `caption` and `details`.

    Example:
    >>> short_caption("A dog runs.", [{"phrase": "a dog", "object_ids": [4, 7]}], {4: [0, 0, 9, 9], 7: [5, 5, 8, 8]})
    {'caption': 'A dog runs.', 'details': [{'phrase': 'a dog', 'tokens_positive': [0, 5], 'id': 4, 'bbox': [0, 0, 9,
    9]}]}
    """
    details = []
    for relation in relations:
        span = next(occurrences(relation["phrase"], text), None)
        if span is not None:
            first = min(relation["object_ids"])
            details.append(
                {
                    "phrase": relation["phrase"],
                    "tokens_positive": list(span),
                    "id": first,
                    "bbox": list(boxes[first]),
                }
            )
    return {"caption": text, "details": sorted(details, key=lambda each: each["tokens_positive"])}


def _object(each: Mapping[str, Any], mask: Mapping[str, Any] | None) -> dict[str, Any]:
    found = {
        "id": each["id"],
        "bbox": list(each["bbox"]),
        "labels": list(each["labels"]),
        "label": each["label"],
        "attributes": list(each["attributes"]) or None,
    }
    found |= {name: each[name] for name in ("score", "depth") if each[name] is not None}
    if mask is not None:
        found["bbox"] = list(mask["bbox"])
        found["segmentation"] = {"size": list(mask["size"]), "counts": mask["counts"]}
        found["segmentation_source"] = mask["source"]
    return found


def make_worker(args: Namespace) -> Worker:
    """Puts annotations together."""
    return one_by_one(lambda row: {"annotation": json.dumps(grand_annotation(row), ensure_ascii=False)})


def write_annotations(args: Namespace) -> None:
    """Write the files that are missing or have changed."""
    folder, num_shards = args.work / FOLDER, number_of_shards(args.work)
    shards = range(num_shards) if args.shard is None else [args.shard]
    for shard in shards:
        for image_id, row in read_shard(shard_path(args.work, STEP.name, shard, num_shards)).items():
            path, content = folder / f"{image_id}.json", row["annotation"].encode()
            if not path.exists() or path.read_bytes() != content:
                write_file(path, content)
    if args.shard is None:
        _tell_leftovers(args.work, folder, num_shards)


def _tell_leftovers(work: Path, folder: Path, num_shards: int) -> None:
    """Say which files are of images that have no annotation any more; a reader would take them for data."""
    known = {
        image_id
        for shard in range(num_shards)
        for image_id in read_shard(shard_path(work, STEP.name, shard, num_shards))
    }
    if others := [path.name for path in sorted(folder.glob("*.json")) if path.stem not in known]:
        more = "" if len(others) == 1 else f" and {len(others) - 1} more"
        print(
            f"export: {folder / others[0]}{more}: of images that are not annotated any more. Remove what you do not "
            "want to be read.",
            file=sys.stderr,
        )


STEP = Step(
    name="export",
    level=0,
    does="write a JSON file for each image, in GranD's layout",
    features=FEATURES,
    make_worker=make_worker,
    needs=("images", "scene_graph"),
    reads=("dense_caption", "extra_context", "masks"),
    after=write_annotations,
)

main = partial(step_main, STEP, __doc__)

if __name__ == "__main__":
    sys.exit(main())
