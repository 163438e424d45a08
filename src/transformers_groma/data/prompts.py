"""The questions that training and evaluation ask, in all wordings.

Template 0 of a task is the standard one of `questions.py`: evaluation asks it, and it is the one to reproduce numbers
with. Training rows draw one of all templates by a hash of the record, so that rows do not depend on their order or on
who writes them.
"""

import hashlib
from typing import Any, Literal, get_args

from ..questions import GROMA_QUESTIONS, fill_question
from .columns import phrase_part, region_part, text_part

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
    templates = PROMPTS[task]
    if seed is None:
        return templates[0]
    digest = hashlib.blake2b(f"{seed}/{task}/{record}".encode(), digest_size=8).digest()
    return templates[int.from_bytes(digest, "big") % len(templates)]


def question_parts(
    task: Task, *, phrase: str | None = None, region: int | None = None, record: str = "", seed: int | None = None
) -> list[dict[str, Any]]:
    """The message parts of a question; the part that shows the image is not among them.

    Args:
        task (`str`): as in `prompt_template`.
        phrase (`str`, *optional*): what to find; for `"rec"` and `"grounding"`.
        region (`int`, *optional*): the box to describe, an index into the row's `boxes_xyxy`; for `"region_caption"`.
        record, seed: as in `prompt_template`.

    Returns:
        `list[dict]`: message parts, see `columns.py`.

    Raises:
        ValueError: unknown task; or the template has a slot that nothing was given for.

    Example:
    >>> [part["text"] for part in question_parts("rec", phrase="the red cup")]
    ['Locate ', 'the red cup', ' in this image.']
    >>> question_parts("region_caption", region=0)[1]
    {'type': 'region', 'text': '', 'boxes': [0]}
    """
    slots = {
        "phrase": None if phrase is None else phrase_part(phrase),
        "region": None if region is None else region_part(region),
    }
    return fill_question(prompt_template(task, record, seed), text_part, slots)


__all__ = ["PROMPTS", "TASKS", "Task", "prompt_template", "question_parts"]
