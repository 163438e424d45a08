"""The questions that training and evaluation ask, and the answers that only point, in all wordings.

Template 0 of a task is the standard one of `questions.py`: evaluation asks it, and it is the one to reproduce numbers
with. Training rows draw one of all templates by a hash of the record, so that rows do not depend on their order or on
who writes them.

A model is trained in the wording of its family: `PROMPTS` are Groma's, `GLAMM_PROMPTS` those of GLaMM's released code.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, get_args

from ..questions import GLAMM_QUESTIONS, GROMA_QUESTIONS, fill_question
from .columns import TEXT, phrase_part, region_part, text_part

Task = Literal["rec", "grounding", "region_caption", "grounded_caption"]

# `{phrase}` is a phrase without boxes (`<p>…</p>`), `{region}` a box that the user points at.
PROMPTS: dict[Task, tuple[str, ...]] = {
    "rec": (
        GROMA_QUESTIONS.rec,
        "Where is {phrase}?",
        "Find {phrase} in the picture.",
        "Please point out {phrase}.",
        "Which region shows {phrase}?",
        "Give me the region of {phrase}.",
        "Can you show me where {phrase} is?",
        "I am looking for {phrase}. Where is it?",
    ),
    "grounding": (
        GROMA_QUESTIONS.grounding,
        "Find every {phrase} in the picture.",
        "Where can you see {phrase} here? Name all regions.",
        "Please point out each {phrase}.",
        "Which regions show {phrase}?",
        "Give me all regions of {phrase}.",
        "List every region of this image with {phrase} in it.",
        "Show me each {phrase} that you can find.",
    ),
    "region_caption": (
        GROMA_QUESTIONS.region_caption,
        "What is in {region}?",
        "Describe {region} briefly.",
        "What can you see at {region}?",
        "Tell me in a few words what {region} shows.",
        "How would you describe {region}?",
        "In a short phrase, what is {region}?",
        "Give a caption for {region}.",
    ),
    "grounded_caption": (
        GROMA_QUESTIONS.grounded_caption,
        "[grounding]Give a short caption of this image and point at what you name.",
        "[grounding]What does the image show, in one sentence?",
        "[grounding]Sum up the picture in a sentence.",
        "[grounding]Say shortly what you see, and where.",
        "[grounding]Write a brief caption for the photo.",
        "[grounding]What is going on in this picture? Keep it short.",
    ),
}
TASKS: tuple[Task, ...] = get_args(Task)

# Whose questions training rows have.
Wording = Literal["groma", "glamm"]
WORDINGS: tuple[Wording, ...] = get_args(Wording)

GlammTask = Literal[
    "segmentation",
    "region_caption",
    "object_caption",
    "region_group_caption",
    "grounded_caption",
    "caption",
    "context",
]

_SEGMENTATION = (
    GLAMM_QUESTIONS.rec,
    "Can you segment the {phrase} in this image?",
    "What is {phrase} in this image? Please respond with segmentation mask.",
    "What is {phrase} in this image? Please output segmentation mask.",
    "Could you provide a segmentation mask for the {phrase} in this image?",
    "Please identify and segment the {phrase} in this image.",
    "Where is the {phrase} in this picture? Please respond with a segmentation mask.",
    "Can you highlight the {phrase} in this image with a segmentation mask?",
)
_REGION_CAPTION = (
    GLAMM_QUESTIONS.region_caption,
    "I'm curious about the region represented by {region} in the picture. Could you describe it in detail?",
    "What can you tell me about the region indicated by {region} in the image?",
    "I'd like to know more about the area in the photo labeled {region}. Can you give me a detailed description?",
    "Could you describe the region shown as {region} in the picture in great detail?",
    "What details can you give me about the region outlined by {region} in the photo?",
    "Please provide me with a comprehensive description of the region marked with {region} in the image.",
    "Can you give me a detailed account of the region labeled as {region} in the picture?",
    "I'm interested in learning more about the region represented by {region} in the photo. Can you describe it in "
    "detail?",
    "What is the region outlined by {region} in the picture like? Could you give me a detailed description?",
    "Can you provide me with a detailed description of the region in the picture marked by {region}, please?",
    "I'm curious about the region represented by {region} in the picture. Could you describe it in detail, please?",
    "What can you tell me about the region indicated by {region} in the image, exactly?",
    "I'd like to know more about the area in the photo labeled {region}, please. Can you give me a detailed "
    "description?",
    "Could you describe the region shown as {region} in the picture in great detail, please?",
    "What details can you give me about the region outlined by {region} in the photo, please?",
    "Please provide me with a comprehensive description of the region marked with {region} in the image, please.",
    "Can you give me a detailed account of the region labeled as {region} in the picture, please?",
    "I'm interested in learning more about the region represented by {region} in the photo. Can you describe it in "
    "detail, please?",
    "What is the region outlined by {region} in the picture like, please? Could you give me a detailed description?",
)
_IN_PARTS = "with interleaved segmentation masks for the corresponding parts of the answer."
_IN_PHRASES = "with interleaved segmentation masks for the corresponding phrases."

# `{phrase}` is plain text in lower case, `{region}` the mark of a region. Some questions have a slip of the pen, which
# the released weights have learned. Of segmentation each question is there with and without its last character.
GLAMM_PROMPTS: dict[GlammTask, tuple[str, ...]] = {
    "segmentation": (*_SEGMENTATION, *(template[:-1] for template in _SEGMENTATION)),
    "region_caption": _REGION_CAPTION,
    # RefCOCO and RefCOCO+, whose expressions are about one object among others.
    "object_caption": (
        "I will provide you with only one region containing only one object, although there may be other objects "
        "present in the image. It is recommended that you describe the object's relative position with respect to "
        "other objects in the image, as well as its position within the image and its basic attributes.{region}",
    ),
    "region_group_caption": (
        "Could you please give me a detailed description of these areas {region}?",
        "Can you provide a thorough description of the regions {region} in this image?",
        "Please describe in detail the contents of the boxed areas {region}.",
        "Could you give a comprehensive explanation of what can be found within {region} in the picture?",
        "Could you give me an elaborate explanation of the {region} regions in this picture?",
        "Can you provide a comprehensive description of the areas identified by {region} in this photo?",
        "Help me understand the specific locations labeled {region} in this picture in detail, please.",
        "What is the detailed information about the areas marked by {region} in this image?",
        "Could you provide me with a detailed analysis of the regions designated {region} in this photo?",
        "What are the specific features of the areas marked {region} in this picture that you can describe in detail?",
        "Could you elaborate on the regions identified by {region} in this image?",
        "What can you tell me about the areas labeled {region} in this picture?",
        "Can you provide a thorough analysis of the specific locations designated {region} in this photo?",
        "I am interested in learning more about the regions marked {region} in this image. Can you provide me "
        "with more information?",
        "Could you please provide a detailed description of the areas identified by {region} in this photo?",
        "What is the significance of the regions labeled {region} in this picture?",
        "I would like to know more about the specific locations designated {region} in this image. Can you "
        "provide me with more information?",
        "Can you provide a detailed breakdown of the regions marked {region} in this photo?",
        "What specific features can you tell me about the areas identified by {region} in this picture?",
        "Could you please provide a comprehensive explanation of the locations labeled {region} in this image?",
        "Can you provide a detailed account of the regions designated {region} in this photo?",
        "I am curious about the areas marked {region} in this picture. Can you provide me with a detailed analysis?",
        "What important details can you tell me about the specific locations identified by {region} in this image?",
        "Could you please provide a detailed description of the regions labeled {region} in this photo?",
        "What can you tell me about the features of the areas designated {region} in this picture?",
        "Can you provide a comprehensive overview of the regions marked {region} in this image?",
        "I would like to know more about the specific locations identified by {region} in this photo. Can you "
        "provide me with more information?",
        "What is the detailed information you have on the areas labeled {region} in this picture?",
        "Could you provide me with a thorough analysis of the regions designated {region} in this image?",
        "Can you provide a detailed explanation of the specific locations marked by {region} in this photo?",
    ),
    "grounded_caption": (
        f"Could you please give me a detailed description of the image? Please respond {_IN_PARTS}",
        f"Can you provide a thorough description of the this image? Please output {_IN_PHRASES}",
        f"Please describe in detail the contents of the image. Please respond {_IN_PARTS}",
        "Could you give a comprehensive explanation of what can be found within this picture? "
        f"Please output {_IN_PHRASES}",
        f"Could you give me an elaborate explanation of this picture? Please respond {_IN_PHRASES}",
        f"Could you provide me with a detailed analysis of this photo? Please output {_IN_PARTS}",
    ),
    "caption": (
        "Could you please give me a detailed description of the image?",
        "Can you provide a thorough description of the this image?",
        "Please provide a thorough description of the this image",
        "Please provide a thorough description of the this image.",
        "Please describe in detail the contents of the image.",
        "Please describe in detail the contents of the image",
        "Could you give a comprehensive explanation of what can be found within this picture?",
        "Could you give me an elaborate explanation of this picture?",
        "Could you provide me with a detailed analysis of this photo?",
        "Can you give a comprehensive explanation of this photo",
        "Please provide an elaborate explanation of this picture.",
        "Please provide an elaborate explanation of this picture",
        "Could you provide me with a detailed analysis of this photo",
    ),
    # GranD's fourth level. The released code asks no question about it: these are ours.
    "context": (
        "What else is worth knowing about this scene, beyond what can be seen?",
        "Can you give me some background about what this picture shows?",
        "What should someone keep in mind in a place like the one in this image?",
        "What may have happened before this photo was taken, and what may happen next?",
    ),
}
# What GLaMM says around `[SEG]`; `{region}` is where it stands.
GLAMM_LOCATIONS = (
    "It is {region}.",
    "Sure, {region}.",
    "Sure, it is {region}.",
    "Sure, the segmentation result is {region}.",
    "{region}.",
)
# What to say where an expression refers to nothing in the image.
NOTHING_THERE = (
    "There is nothing like that in this image.",
    "I cannot find that in this image.",
    "That is not in this image.",
)


# How GLaMM is asked what Groma is asked; it has one wording for a thing and for all of a kind.
_GLAMM_TASK_OF: dict[Task, GlammTask] = {
    "rec": "segmentation",
    "grounding": "segmentation",
    "region_caption": "region_caption",
    "grounded_caption": "grounded_caption",
}


def prompt_template(task: Task, record: str = "", seed: int | None = None) -> str:
    """The wording of a question, with its slots unfilled.

    Args:
        task (`str`): `"rec"` (find one thing), `"grounding"` (find all of a kind), `"region_caption"` (describe a box)
            or `"grounded_caption"` (describe the image and point at things).
        record (`str`): name of the record, which the draw depends on.
        seed (`int`, *optional*): draws the wording; the standard one by default.

    Returns:
        `str`: the template; its slots are `{phrase}` or `{region}`.

    Raises:
        ValueError: unknown task.

    Example:
    >>> prompt_template("rec")
    'Locate {phrase} in this image.'
    >>> prompt_template("rec", "image 7, expression 2", seed=0) in PROMPTS["rec"]
    True
    """
    if task not in PROMPTS:
        raise ValueError(f"`task` must be one of {', '.join(map(repr, TASKS))}, got {task!r}.")
    return drawn_text(PROMPTS[task], f"{task}/{record}", seed)


def drawn_text(texts: Sequence[str], record: str, seed: int | None) -> str:
    """One of several texts, drawn by a hash, so that it depends on the record and the seed alone.

    Args:
        texts (`Sequence[str]`): to draw from.
        record (`str`): name of the record, and of what is drawn for it.
        seed (`int`, *optional*): draws the text; the first one by default.

    Returns:
        `str`: one of them.

    Example:
    >>> drawn_text(("a", "b"), "image 7", seed=None), drawn_text(("a", "b"), "image 7", seed=0) in ("a", "b")
    ('a', True)
    """
    if seed is None:
        return texts[0]
    digest = hashlib.blake2b(f"{seed}/{record}".encode(), digest_size=8).digest()
    return texts[int.from_bytes(digest, "big") % len(texts)]


def question_parts(
    task: Task,
    *,
    phrase: str | None = None,
    region: int | None = None,
    record: str = "",
    seed: int | None = None,
    wording: Wording = "groma",
) -> list[dict[str, Any]]:
    """The message parts of a question; the part that shows the image is not among them.

    Args:
        task (`str`): as in `prompt_template`.
        phrase (`str`, *optional*): what to find; for `"rec"` and `"grounding"`.
        region (`int`, *optional*): the box to describe, an index into the row's `boxes_xyxy`; for `"region_caption"`.
        record, seed: as in `prompt_template`.
        wording (`str`): `"groma"` or `"glamm"`, see [`glamm_question_parts`].

    Returns:
        `list[dict]`: message parts, see `columns.py`.

    Raises:
        ValueError: unknown task; or the template has a slot that nothing was given for.

    Example:
    >>> [part["text"] for part in question_parts("rec", phrase="the red cup")]
    ['Locate ', 'the red cup', ' in this image.']
    >>> question_parts("region_caption", region=0)[1]
    {'type': 'region', 'text': '', 'boxes': [0]}
    >>> question_parts("rec", phrase="red cup", wording="glamm")[0]["text"]
    'Please segment red cup in this image.'
    """
    template = prompt_template(task, record, seed)
    if wording == "glamm":
        regions = [] if region is None else [region]
        return glamm_question_parts(
            _GLAMM_TASK_OF[task], phrase=phrase or "", regions=regions, record=record, seed=seed
        )
    slots = {
        "phrase": None if phrase is None else phrase_part(phrase),
        "region": None if region is None else region_part(region),
    }
    return fill_question(template, text_part, slots)


def glamm_question_parts(
    task: GlammTask, *, phrase: str = "", regions: Sequence[int] = (), record: str = "", seed: int | None = None
) -> list[dict[str, Any]]:
    """The message parts of a question as GLaMM's released code asks it; the part that shows the image is not among
    them.

    Args:
        task (`str`): a key of `GLAMM_PROMPTS`.
        phrase (`str`): what to segment.
        regions (`Sequence[int]`): indices into the row's `boxes_xyxy`, of the regions to describe. They are numbered
            from 1: "region1 <bbox>".
        record, seed: as in `prompt_template`.

    Returns:
        `list[dict]`: message parts, see `columns.py`.

    Raises:
        ValueError: unknown task; or the template has a slot that nothing was given for.

    Example:
    >>> glamm_question_parts("segmentation", phrase="Red cup")[0]["text"]
    'Please segment red cup in this image.'
    >>> [part["text"] for part in glamm_question_parts("region_caption", regions=[1])]
    ['Can you provide me with a detailed description of the region in the picture marked by region2 ', '', '?']
    """
    if task not in GLAMM_PROMPTS:
        raise ValueError(f"`task` must be one of {', '.join(map(repr, GLAMM_PROMPTS))}, got {task!r}.")
    template = drawn_text(GLAMM_PROMPTS[task], f"{task}/{record}", seed)
    before, slot, after = template.partition("{region}")
    if slot:
        if not regions:
            raise ValueError(f"The question {template!r} needs `regions`: pass the regions that it is about.")
        # Several are each followed by a comma.
        between = "," if task == "region_group_caption" else ""
        parts = [text_part(before)] if before else []
        for region in regions:
            parts += [text_part(f"region{region + 1} "), region_part(region), text_part(between)]
        parts.append(text_part(after))
        return _joined(parts)
    if "{phrase}" in template and not phrase.strip():
        raise ValueError(f"The question {template!r} needs `phrase`: pass what is to be segmented.")
    return [text_part(template.replace("{phrase}", phrase.strip().lower()))]


def location_parts(
    boxes: Sequence[int], record: str = "", seed: int | None = None, wording: Wording = "groma"
) -> list[dict[str, Any]]:
    """The message parts of an answer that only points, as where something is asked for.

    Args:
        boxes (`Sequence[int]`): indices into the row's `boxes_xyxy`. None: the answer says that there is nothing.
        record, seed: as in `prompt_template`; for GLaMM's answers, and those that say that there is nothing.
        wording (`str`): `"groma"`, which points and says nothing, or `"glamm"`.

    Returns:
        `list[dict]`: message parts. All boxes are those of one phrase, as they are one answer.

    Example:
    >>> location_parts([0, 1])
    [{'type': 'phrase', 'text': '', 'boxes': [0, 1]}]
    >>> [part["text"] for part in location_parts([0], wording="glamm")]
    ['It is ', '', '.']
    """
    if not boxes:
        return [text_part(drawn_text(NOTHING_THERE, f"nothing/{record}", seed))]
    where = phrase_part("", boxes)
    if wording == "groma":
        return [where]
    before, after = drawn_text(GLAMM_LOCATIONS, f"location/{record}", seed).split("{region}")
    return [*([text_part(before)] if before else []), where, text_part(after)]


def _joined(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same parts, with texts that follow each other put together and empty ones left out."""
    joined: list[dict[str, Any]] = []
    for part in parts:
        if part["type"] == TEXT and joined and joined[-1]["type"] == TEXT:
            joined[-1] = text_part(joined[-1]["text"] + part["text"])
        elif part["type"] != TEXT or part["text"]:
            joined.append(part)
    return joined


__all__ = [
    "GLAMM_LOCATIONS",
    "GLAMM_PROMPTS",
    "GlammTask",
    "NOTHING_THERE",
    "PROMPTS",
    "TASKS",
    "Task",
    "WORDINGS",
    "Wording",
    "drawn_text",
    "glamm_question_parts",
    "location_parts",
    "prompt_template",
    "question_parts",
]
