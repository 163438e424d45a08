"""An engine without a model: it answers what it is told to, as slowly as it is told to."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from transformers_groma.grounding import ground_text
from transformers_groma.masks import mask_to_rle
from transformers_groma.questions import GROMA_QUESTIONS
from transformers_groma.serving.answers import EngineAnswer, EngineClosedError, EngineRegion, EngineStatus
from transformers_groma.serving.sampling import Sampling

MARKUP = "There is <p>a red cup</p> <roi><r0></roi> on <p>a table</p> <roi><r1><r2></roi>."
TEXT = "There is a red cup on a table."
# Of the regions that it names, `xyxy` in pixels.
BOXES = torch.tensor([[10.0, 20.0, 30.0, 40.0], [0.0, 0.0, 64.0, 48.0], [1.0, 2.0, 3.0, 4.0]])
# Of each of its regions: a mask that says which one it is of.
MASKS = {number: mask_to_rle(np.eye(48, 64, number, bool)) for number in range(3)}


class FakeEngine:
    """Answers with `pieces` of markup, a step each.

    Args:
        pieces: of the markup.
        delay: seconds before each step.
        error: raised in the place of the first answer.
        error_after: steps after which it is raised instead.
        has_masks: whether it has masks, which are [`MASKS`].
    """

    question_wording = GROMA_QUESTIONS
    has_proposals = True

    def __init__(
        self,
        pieces: tuple[str, ...] = (MARKUP,),
        delay: float = 0.0,
        error: Exception | None = None,
        error_after: int = 0,
        has_masks: bool = False,
    ) -> None:
        self.has_masks = has_masks
        self.segmented: list[list[Any]] = []
        self.pieces, self.delay, self.error, self.error_after = pieces, delay, error, error_after
        self.asked: list[tuple[list[dict[str, Any]], Sampling]] = []
        self.running = self.cancelled = self.finished = 0
        self.is_closed = False
        self.status = EngineStatus(
            **{field.name: 0 for field in fields(EngineStatus) if field.name != "language_server"}
        )

    async def answer(self, messages: list[dict[str, Any]], sampling: Sampling, masks: bool = False) -> EngineAnswer:
        return [answer async for answer in self.stream(messages, sampling, masks)][-1]

    async def segment(self, image: Any, regions: list[Any]) -> list[EngineRegion]:
        if self.error is not None:
            raise self.error
        self.segmented.append(regions)
        return [
            EngineRegion((1.0, 2.0, 3.0, 4.0), MASKS[number % 3], 0.87654 if number == 0 else None)
            for number, _ in enumerate(regions)
        ]

    async def stream(
        self, messages: list[dict[str, Any]], sampling: Sampling, masks: bool = False
    ) -> AsyncIterator[EngineAnswer]:
        assert self.has_masks or not masks
        self.asked.append((messages, sampling))
        self.running += 1
        try:
            markup, is_final = "", False
            for step, piece in enumerate(self.pieces):
                for _ in range(max(1, round(self.delay / 0.01))):
                    await asyncio.sleep(min(self.delay, 0.01))
                    if self.is_closed:
                        raise EngineClosedError("closed")
                if self.error is not None and step >= self.error_after:
                    raise self.error
                markup += piece
                is_final = step == len(self.pieces) - 1
                self.finished += is_final
                own = sum(part["type"] == "region" for message in messages for part in message["content"])
                grounded = ground_text(markup, BOXES, user_region_ids=range(min(own, 3)))
                found = (MASKS, dict.fromkeys(MASKS, 0.5)) if is_final and masks else ({}, {})
                yield EngineAnswer(grounded, "stop", 12, step + 1, is_final, *found)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += not is_final
            raise
        finally:
            self.running -= 1

    def snapshot(self) -> EngineStatus:
        return replace(self.status, is_alive=not self.is_closed, running=self.running)

    async def aclose(self, timeout: float | None = None) -> None:
        self.is_closed = True
