"""Level 2, relations: ties the captions' phrases to objects, and makes objects of what a phrase names.

python -m processing.grand.relations photos data/grand

No model runs. The box of a phrase belongs to the object that it overlaps most, with an IoU of at least .75. A floating
object that a phrase names becomes an object; a phrase without either gets a floating object of its own.
"""

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from datasets import Features, List, Value

from processing.grand.agreement import best_match, by_votes
from processing.grand.detect import BOX
from processing.grand.job import Step, Worker, step_main
from processing.grand.models import one_by_one
from processing.grand.phrases import content_words, head_noun
from processing.grand.work_folder import Row

MATCH_IOU = 0.75

OBJECTS = List(
    {
        "id": Value("int32"),
        "bbox": BOX,
        "labels": List(Value("string")),
        "score": Value("float64"),
        "attributes": List(Value("string")),
    }
)
RELATIONS = List({"phrase": Value("string"), "object_ids": List(Value("int32"))})

FEATURES = Features(
    {"objects": OBJECTS, "floating_objects": OBJECTS, "captions": List(Value("string")), "relations": RELATIONS}
)

Object = dict[str, Any]


def related(
    objects: Sequence[Mapping[str, Any]], floating: Sequence[Mapping[str, Any]], phrases: Sequence[Mapping[str, Any]]
) -> tuple[list[Object], list[Object], list[dict[str, Any]]]:
    """Tie phrases to objects.

    Args:
        objects, floating (`Sequence[Mapping]`): `id`, `bbox` (`xyxy` in pixels), `labels`, `score`, `attributes`.
        phrases (`Sequence[Mapping]`): `phrase` and `boxes` (`xyxy` in pixels).

    Returns:
        `tuple`: objects; floating objects; and relations, `phrase` in lower case with `object_ids`. Ids are kept, new
        objects have new ones.

    Example:
    >>> def thing(number, box, label):
    ...     return {"id": number, "bbox": box, "labels": [label], "score": 0.5, "attributes": []}
    >>> dog, rug = thing(0, [0, 0, 10, 10], "dog"), thing(1, [0, 8, 90, 60], "carpet")
    >>> phrases = [{"phrase": "A  dog", "boxes": [[0, 0, 10, 9]]}, {"phrase": "a red rug", "boxes": [[0, 8, 90, 62]]}]
    >>> objects, floating, relations = related([dog], [rug], phrases)
    >>> [(each["id"], each["labels"], each["attributes"]) for each in objects], floating
    ([(0, ['dog'], []), (1, ['carpet', 'rug'], ['a red rug'])], [])
    >>> relations
    [{'phrase': 'a dog', 'object_ids': [0]}, {'phrase': 'a red rug', 'object_ids': [1]}]
    """
    known = [_Node(each, is_object=True) for each in objects] + [_Node(each, is_object=False) for each in floating]
    next_id = max((node.each["id"] for node in known), default=-1) + 1
    ids: dict[str, list[int]] = {}
    for grounded in phrases:
        phrase = " ".join(grounded["phrase"].lower().split())
        for box in grounded["boxes"]:
            node = _node_at(box, known)
            if node is None:
                new = {"id": next_id, "bbox": list(box), "labels": [], "score": None, "attributes": []}
                node = _Node(new, is_object=False)
                known.append(node)
                next_id += 1
            node.name(phrase)
            if node.each["id"] not in ids.setdefault(phrase, []):
                ids[phrase].append(node.each["id"])
    relations = [{"phrase": phrase, "object_ids": numbers} for phrase, numbers in ids.items()]
    return (
        [node.result() for node in known if node.is_object],
        [node.result() for node in known if not node.is_object],
        relations,
    )


class _Node:
    """An object, and what phrases add to it."""

    def __init__(self, each: Mapping[str, Any], is_object: bool) -> None:
        self.each, self.is_object = each, is_object
        self._votes = list(each["labels"])
        self._phrases: list[str] = []

    def name(self, phrase: str) -> None:
        """Take a phrase for one about this object. Two sources that name the same box make it an object."""
        if not self.is_object:
            self._votes.append(head_noun(phrase) or phrase)
            self.is_object = len(self._votes) > 1 and phrase not in self._phrases
        self._phrases.append(phrase)

    def result(self) -> Object:
        attributes = list(self.each["attributes"])
        if not attributes:  # a phrase says more than a label where it has more than a noun
            attributes = [phrase for phrase in dict.fromkeys(self._phrases) if len(content_words(phrase)) > 1][:1]
        return {**self.each, "labels": by_votes(self._votes), "attributes": attributes}


def _node_at(box: Sequence[float], known: Sequence[_Node]) -> _Node | None:
    for is_object in (True, False):
        nodes = [node for node in known if node.is_object == is_object]
        index = best_match(box, [node.each["bbox"] for node in nodes], MATCH_IOU)
        if index is not None:
            return nodes[index]
    return None


def make_worker(args: Namespace) -> Worker:
    """Ties phrases to objects."""

    def make(row: Row) -> Row:
        told = {each["id"]: each["text"] for each in row["attributes"]["attributes"]} if row["attributes"] else {}
        objects, floating = (
            [{**each, "attributes": [told[each["id"]]] if each["id"] in told else []} for each in row["objects"][name]]
            for name in ("objects", "floating_objects")
        )
        captions = list(dict.fromkeys(columns["caption"] for columns in row["captions"].values()))
        objects, floating, relations = related(objects, floating, row["ground_phrases"]["phrases"])
        return {"objects": objects, "floating_objects": floating, "captions": captions, "relations": relations}

    return one_by_one(make)


STEP = Step(
    name="relations",
    level=2,
    does="tie the phrases to objects, and name new ones",
    features=FEATURES,
    make_worker=make_worker,
    needs=("images", "objects", "captions", "ground_phrases"),
    reads=("attributes",),
)

main = partial(step_main, STEP, __doc__)

if __name__ == "__main__":
    sys.exit(main())
