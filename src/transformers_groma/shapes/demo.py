"""The questions of `groma demo` about a synthetic scene, and the check of the answers.

Needs nothing but what the package itself needs. Boxes are `xyxy` in absolute pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..box_arrays import IOU_THRESHOLD
from ..boxes import box_iou
from ..grounding import GroundedText, render_grounded_phrase
from ..interior_points import interior_point
from ..markup import REGION_MARK
from ..masks import mask_iou
from ..regions import Regions
from .expressions import RELATIONS
from .glamm_wording import in_glamm_words
from .questions import ask_neighbor, describe_image, describe_region, locate_all, locate_one
from .scenes import Scene
from .wording import with_article, words
from .world import Exchange, Phrase, Region, World, world_of

NEIGHBOR_TRIES = 30


@dataclass(frozen=True)
class Comparison:
    """An answer beside the truth.

    Args:
        right (`int`): how many of its statements are right.
        total (`int`): how many statements it makes; at least 1 where something had to be said.
        text (`str`): the same for people.
        truth (`list[dict]`): `text` and `box_xyxy` of what is true, as far as it was asked for.
    """

    right: int
    total: int
    text: str
    truth: list[dict[str, Any]]


def scene_questions(scene: Scene) -> dict[str, Exchange]:
    """Five questions about a scene: two with a box, an expression and a group to locate, and a grounded description.

    Args:
        scene (`Scene`): what is asked about.

    Returns:
        `dict[str, Exchange]`: by name, always the same for a scene. Their objects are chosen at random; a question for
        which none were found is left out, such as "expression" where no object differs from all others in words.

    Example:
    >>> from transformers_groma.shapes.scenes import make_scene
    >>> from transformers_groma.shapes.demo import question_text, scene_questions
    >>> questions = scene_questions(make_scene(seed=0, split="test", index=0))
    >>> {name: question_text(exchange) for name, exchange in questions.items()}["region"]
    'What is <region>?'
    """
    rng = np.random.default_rng([scene.seed, scene.index])
    world = World([item.attributes for item in scene.objects])
    region = describe_region(world, rng, template=1)
    expression = locate_one(world, rng, template=0, position_share=0)
    # A second generator: the questions above stay the same however many tries the next ones take.
    rng = np.random.default_rng([scene.seed, scene.index, 1])
    questions = {
        "region": region,
        "neighbor": _evident_neighbor(scene, rng),
        "expression": expression,
        "group": locate_all(world_of(scene), rng, template=0),
        "description": describe_image(world_of(scene), rng, template=0),
    }
    return {name: exchange for name, exchange in questions.items() if exchange is not None}


def _evident_neighbor(scene: Scene, rng: np.random.Generator) -> Exchange | None:
    """A question about a neighbour that is entirely in that direction, so that everyone agrees."""
    for _ in range(NEIGHBOR_TRIES):
        exchange = ask_neighbor(world_of(scene), rng)
        if exchange is None:
            return None
        relation = exchange.topic.rsplit(" ", maxsplit=1)[0]
        axis, sign = RELATIONS[relation]
        start, target = (scene.boxes_xyxy[indices[0]] for indices in (exchange.pointed, exchange.targets))
        if (sign > 0 and target[axis] >= start[axis + 2]) or (sign < 0 and target[axis + 2] <= start[axis]):
            return exchange
    return None


def click_question(scene: Scene) -> tuple[Exchange, tuple[float, float]]:
    """A question about the object that a click means.

    Args:
        scene (`Scene`): what is asked about.

    Returns:
        `tuple`: the question, as "What is <region>?", whose `pointed` is the object, and the click, `(x, y)` in
        absolute pixels, well inside of it. They are always the same for a scene.

    Example:
    >>> from transformers_groma.shapes.scenes import make_scene
    >>> exchange, (x, y) = click_question(make_scene(seed=0, split="test", index=0))
    >>> bool(make_scene(seed=0, split="test", index=0).objects[exchange.pointed[0]].mask[int(y), int(x)])
    True
    """
    world = World([item.attributes for item in scene.objects])
    exchange = describe_region(world, np.random.default_rng([scene.seed, scene.index, 2]), template=1)
    return exchange, interior_point(scene.objects[exchange.pointed[0]].mask)


def mask_ious(scene: Scene, regions: Regions, together: Sequence[int] = ()) -> list[float]:
    """How well masks fit the objects of a scene.

    Args:
        scene (`Scene`): in the size of the image.
        regions (`Regions`): with masks.
        together (`Sequence[int]`, *optional*): objects that have one mask, that of them all.

    Returns:
        `list[float]`: for each region the IoU of its mask with that of the object that it fits best, or with that of
        the objects `together`.

    Example:
    >>> from transformers_groma.regions import Regions
    >>> from transformers_groma.shapes.scenes import make_scene
    >>> scene = make_scene(seed=0, split="test", index=0)
    >>> mask_ious(scene, Regions(scene.boxes_xyxy[:1], masks=[scene.objects[0].mask]))
    [1.0]
    """
    truth = np.stack([item.mask for item in scene.objects])
    if together:
        truth = truth[list(together)].any(axis=0, keepdims=True)
    return mask_iou(regions.masks, truth).max(axis=1).tolist() if len(regions) else []


def question_text(exchange: Exchange) -> str:
    """A question as Groma's processor reads it.

    Args:
        exchange (`Exchange`): a question.

    Returns:
        `str`: the question, with a `<region>` mark for each object that the user points at.
    """
    rendered = {Region: lambda part: REGION_MARK, Phrase: lambda part: render_grounded_phrase(part.text, [])}
    return "".join(rendered.get(type(part), str)(part) for part in exchange.question)


def glamm_question_text(exchange: Exchange) -> str:
    """A question as GLaMM's processor reads it, in GLaMM's words; see [`question_text`].

    Args:
        exchange (`Exchange`): a question.

    Returns:
        `str`: the question. What is to be located is plain text.

    Example:
    >>> from transformers_groma.shapes.scenes import make_scene
    >>> from transformers_groma.shapes.demo import glamm_question_text, scene_questions
    >>> questions = scene_questions(make_scene(seed=0, split="test", index=0))
    >>> glamm_question_text(questions["expression"])[:15]
    'Please segment '
    """
    rendered = {Region: lambda part: REGION_MARK, Phrase: lambda part: part.text}
    return "".join(rendered.get(type(part), str)(part) for part in in_glamm_words(exchange).question)


def compare(exchange: Exchange, scene: Scene, answer: GroundedText, together: bool = False) -> Comparison:
    """Compare an answer with the scene.

    A description must be correct word for word; a box is right with an IoU above 0.5; a group is right if each of its
    objects has a box, and each box such an object, with an IoU of at least 0.5; a phrase is right if it names all that
    can be said about an object that was not named before and its box has an IoU of at least 0.5 with that of the
    object.

    Args:
        exchange (`Exchange`): the question, of [`scene_questions`].
        scene (`Scene`): its scene, in the size of the image that was asked about.
        answer (`GroundedText`): of a model.
        together (`bool`): the model has one mask for a group, GLaMM's way. It is right at an IoU of at least 0.5 with
            the union of their masks.

    Returns:
        `Comparison`: what is right.

    Raises:
        ValueError: the question is of another kind.

    Example:
    >>> import torch
    >>> from transformers_groma.shapes.scenes import make_scene
    >>> from transformers_groma.grounding import ground_text
    >>> scene = make_scene(seed=0, split="test", index=0)
    >>> exchange = scene_questions(scene)["expression"]
    >>> boxes = torch.tensor(scene.boxes_xyxy)
    >>> compare(exchange, scene, ground_text(f"<roi><r{exchange.targets[0]}></roi>", boxes)).text
    'right: IoU 1.00 with the true box'
    """
    match exchange.kind:
        case "region-caption":
            return _compare_words(exchange, scene, answer)
        case "rec":
            return _compare_box(exchange, scene, answer)
        case "grounding" if together:
            return _compare_union(exchange, scene, answer)
        case "grounding":
            return _compare_group(exchange, scene, answer)
        case "neighbor":
            return _compare_neighbor(exchange, scene, answer)
        case "grounded-caption":
            return _compare_phrases(scene, answer)
    raise ValueError(f"`exchange.kind` is {exchange.kind!r}. Use a question of `scene_questions`.")


def count_found(scene: Scene, boxes: Sequence[Sequence[float]]) -> int:
    """How many objects of a scene have a region.

    Args:
        scene (`Scene`): in the size of the image.
        boxes (`Sequence[Sequence[float]]`): regions, `xyxy` in absolute pixels.

    Returns:
        `int`: objects with a region at an IoU of at least 0.5.

    Example:
    >>> from transformers_groma.shapes.scenes import make_scene
    >>> scene = make_scene(seed=0, split="test", index=0)
    >>> count_found(scene, scene.boxes_xyxy[:3]), count_found(scene, [])
    (3, 0)
    """
    iou = box_iou(torch.tensor(scene.boxes_xyxy), torch.tensor(boxes).reshape(-1, 4))
    return int((iou >= IOU_THRESHOLD).any(dim=1).sum())


def _compare_words(exchange: Exchange, scene: Scene, answer: GroundedText) -> Comparison:
    is_right = answer.text.strip() == exchange.reference
    text = "correct word for word" if is_right else f"not correct word for word; expected: {exchange.reference}"
    return Comparison(int(is_right), 1, text, [_truth(scene, index) for index in exchange.pointed])


def _compare_box(exchange: Exchange, scene: Scene, answer: GroundedText) -> Comparison:
    truth = [_truth(scene, index) for index in exchange.targets]
    boxes = [phrase.boxes[0] for phrase in answer.phrases]
    if not boxes:
        return Comparison(0, 1, "wrong: no box", truth)
    iou = float(box_iou(boxes[0][None], torch.tensor([scene.boxes_xyxy[index] for index in exchange.targets])).max())
    is_right = iou > IOU_THRESHOLD
    return Comparison(int(is_right), 1, f"{'right' if is_right else 'wrong'}: IoU {iou:.2f} with the true box", truth)


def _compare_group(exchange: Exchange, scene: Scene, answer: GroundedText) -> Comparison:
    truth = [_truth(scene, index) for index in exchange.targets]
    boxes = [box for phrase in answer.phrases for box in phrase.boxes.tolist()]
    found = 0
    free = [item["box_xyxy"] for item in truth]
    for box in boxes:
        hit = _best(box, free)
        if hit is not None:
            free.pop(hit)
            found += 1
    extra = len(boxes) - found
    text = f"{found} of {len(truth)} found" + (f", and {extra} more that should not be there" if extra else "")
    right = found == len(truth) and extra == 0
    return Comparison(int(right), 1, f"{'right' if right else 'wrong'}: {text}", truth)


def _compare_union(exchange: Exchange, scene: Scene, answer: GroundedText) -> Comparison:
    truth = [_truth(scene, index) for index in exchange.targets]
    regions = [phrase.regions for phrase in answer.phrases if len(phrase.regions)]
    if not regions or regions[0].masks is None:
        return Comparison(0, 1, "wrong: no mask", truth)
    iou = mask_ious(scene, regions[0], exchange.targets)[0]
    is_right = iou >= IOU_THRESHOLD
    text = f"{'right' if is_right else 'wrong'}: IoU {iou:.2f} with the true mask of all {len(truth)}"
    return Comparison(int(is_right), 1, text, truth)


def _compare_neighbor(exchange: Exchange, scene: Scene, answer: GroundedText) -> Comparison:
    truth = [_truth(scene, index) for index in exchange.targets]
    if answer.text.strip() != exchange.reference:
        return Comparison(0, 1, f"not correct word for word; expected: {exchange.reference}", truth)
    box = answer.phrases[0].boxes[0].tolist() if answer.phrases else None
    is_right = box is not None and _best(box, [item["box_xyxy"] for item in truth]) is not None
    box_verdict = "right" if is_right else "wrong"
    return Comparison(int(is_right), 1, f"correct word for word, and the box is {box_verdict}", truth)


def _compare_phrases(scene: Scene, answer: GroundedText) -> Comparison:
    truth = [_truth(scene, index) for index in range(len(scene.objects))]
    unnamed = list(truth)
    for phrase in answer.phrases:
        fitting = [item for item in unnamed if item["text"] == phrase.text.strip()]
        hit = _best(phrase.boxes[0].tolist(), [item["box_xyxy"] for item in fitting])
        if hit is not None:
            unnamed = [item for item in unnamed if item is not fitting[hit]]
    right, total = len(truth) - len(unnamed), len(answer.phrases)
    text = f"{right} of {total} phrases right, words and box" if total > 0 else "wrong: no phrase has a box"
    return Comparison(right, max(total, 1), text, truth)


def _best(box: Sequence[float], candidates: Sequence[Sequence[float]]) -> int | None:
    """The candidate that a box has the best IoU with, if that is at least 0.5."""
    if not candidates:
        return None
    iou = box_iou(torch.tensor([box]), torch.tensor(candidates))[0]
    return int(iou.argmax()) if float(iou.max()) >= IOU_THRESHOLD else None


def _truth(scene: Scene, index: int) -> dict[str, Any]:
    """The full description of an object, and its box."""
    return {
        "text": with_article(words(scene.objects[index].attributes)),
        "box_xyxy": scene.boxes_xyxy[index],
    }


__all__ = [
    "Comparison",
    "click_question",
    "compare",
    "count_found",
    "glamm_question_text",
    "mask_ious",
    "question_text",
    "scene_questions",
]
