"""What the engine returns and raises: answers, its status, and why a request gets none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..grounding import GroundedText
from ..masks import RLE, rle_area, rle_to_box


@dataclass(frozen=True, eq=False)
class EngineAnswer:
    """An answer, complete or so far.

    Args:
        grounded (`GroundedText`): the text and its phrases, with boxes `xyxy` in absolute pixels of the upright image.
            Phrases of a partial answer stay as they are, but for more regions.
        finish_reason (`str`, *optional*): `"stop"`, the model ended its answer, or `"length"`, it reached
            `max_new_tokens`; `None` for a partial answer.
        prompt_tokens (`int`): tokens of the prompt, the image's included.
        completion_tokens (`int`): tokens that the model wrote, its end token included.
        is_final (`bool`): whether the answer is complete.
        masks (`Mapping[int, RLE]`): of a complete answer, where masks were asked for, the masks of the regions that
            its phrases name and of the user's, by their numbers; of the upright image. A GLaMM's phrases always have
            them. `grounded.with_masks` takes them, each decoded by `rle_to_mask`.
        mask_scores (`Mapping[int, float]`): the IoU that the mask decoder expects of each of them, but for masks that
            were given.
    """

    grounded: GroundedText
    finish_reason: Literal["stop", "length"] | None
    prompt_tokens: int
    completion_tokens: int
    is_final: bool
    masks: Mapping[int, RLE] = field(default_factory=dict)
    mask_scores: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class EngineRegion:
    """A region that a user points at, as the model understands it.

    Args:
        box (`tuple` of 4 `float`): `xyxy` in absolute pixels of the upright image.
        mask (`RLE`, *optional*): of the upright image; `None` for a model without a mask decoder.
        score (`float`, *optional*): the IoU that the mask decoder expects of its mask; `None` for a mask that was
            given, and without one.
    """

    box: tuple[float, float, float, float]
    mask: RLE | None
    score: float | None


def engine_region(box: Sequence[float], mask: RLE | None, score: float | None) -> EngineRegion:
    """Make a region; its box is the one around its mask, unless it has none or an empty one.

    Example:
    >>> engine_region([0.0, 0.0, 3.0, 2.0], {"size": [2, 3], "counts": "231"}, 0.5).box
    (1.0, 0.0, 3.0, 2.0)
    """
    if mask is not None and rle_area(mask) > 0:
        box = rle_to_box(mask).tolist()
    return EngineRegion(tuple(box), mask, score)


@dataclass(frozen=True)
class EngineStatus:
    """What an engine is doing and has done since its start.

    Args:
        waiting (`int`): requests that wait.
        preparing (`int`): those of them whose images and prompts are still being prepared.
        running (`int`): requests in the batch that the model works on.
        is_closing (`bool`): whether it takes no more requests.
        is_alive (`bool`): whether its thread runs.
        batches (`int`), batched_requests (`int`): how often prompts were read, and how many: those that begin a batch,
            and those that join one together.
        answered (`int`), failed (`int`), invalid (`int`), cancelled (`int`): how requests ended: with a result, with
            an error of the model or of the closing engine, with a `ValueError`, or given up by whoever asked.
        refused (`int`): requests that found the queue full.
        cached_images (`int`): perceived images that are kept.
        cache_hits (`int`), cache_misses (`int`): images that had been looked at before, and those that had not.
        prompt_tokens (`int`), generated_tokens (`int`): tokens read and written.
        busy_seconds (`float`): time that the model worked.
        language_server (`str`, *optional*): where a language server writes the words, `"ok"`, or why it does not.
    """

    waiting: int
    preparing: int
    running: int
    is_closing: bool
    is_alive: bool
    batches: int
    batched_requests: int
    answered: int
    failed: int
    invalid: int
    cancelled: int
    refused: int
    cached_images: int
    cache_hits: int
    cache_misses: int
    prompt_tokens: int
    generated_tokens: int
    busy_seconds: float
    language_server: str | None = None


class QueueFullError(RuntimeError):
    """Too many requests wait already; ask again later."""


class EngineClosedError(RuntimeError):
    """The engine is closing or closed and takes no more requests."""


class ModelFailedError(RuntimeError):
    """The model failed on the batch that a request was in."""


class LanguageServerError(RuntimeError):
    """The language server that writes the words did not write these.

    Args:
        message (`str`): what clients are told: a sentence without addresses.
        status (`int`): the HTTP status for them: 503 where asking again in a moment may help, 504 where it took too
            long, else 502.
        detail (`str`): what the operator is told besides.
        is_overloaded (`bool`): whether it is there, and has too much to do.
    """

    def __init__(self, message: str, status: int, detail: str = "", is_overloaded: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail
        self.is_overloaded = is_overloaded


__all__ = [
    "EngineAnswer",
    "EngineClosedError",
    "EngineRegion",
    "EngineStatus",
    "LanguageServerError",
    "ModelFailedError",
    "QueueFullError",
    "engine_region",
]
