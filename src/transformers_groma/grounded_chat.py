"""A conversation about one image, which the model looks at once; each turn may point at new regions."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.pipelines.base import Pipeline

from .answer_masks import add_masks, masks_of_user
from .answer_settings import BoxSettings, Generation, VerbSettings, check_flags
from .answering import Prompt, generate, longest_prompt, prompt_about, prompt_length, read_answers, stream_answer
from .exact_boxes import SAME_BOX_TOLERANCE
from .grounding import GroundedText
from .image_inputs import ImageSize
from .perceived_images import PerceivedImage
from .pointed_regions import PointedRegion, find_regions, refer_boxes_of
from .region_inputs import read_regions
from .verb_inputs import Given, marked_question, one_of, question_parts

# Reads the keyword arguments of a question, with the pipeline's defaults.
SettingsReader = Callable[[Mapping[str, Any]], VerbSettings]


@dataclass(frozen=True, eq=False)
class ChatTurn:
    """A question of a chat, and its answer.

    Args:
        question (`str`): as the model read it, with a `<region>` mark for each region.
        boxes (`Tensor` of shape `(n, 4)`): the regions that it pointed at, `xyxy` in absolute pixels of the upright
            image; of a mask, a click or a scribble the box around its pixels.
        answer (`GroundedText`): the answer; cut short where a streamed answer was not read to its end.
    """

    question: str
    boxes: Tensor
    answer: GroundedText


class GroundedChat:
    """A conversation about one image; made by `ImageGroundingPipeline.chat`.

    The model looks at the image once, and what it has read stays in its cache: a turn costs its own tokens. Regions
    may come with every turn. Where a new one finds no region slot free, where two of a question have the same box and
    different masks, or where a turn was interrupted by an error, the model reads the conversation so far again, its
    earlier answers as plain text; it does not look at the image again.

    A chat answers one question at a time. Several chats do not disturb each other, nor other verbs of the pipeline.

    Example:

    ```python
    >>> from transformers_groma import ImageGroundingPipeline
    >>> from transformers_groma.shapes.scenes import make_scene

    >>> groma = ImageGroundingPipeline.from_pretrained("hub_configs/groma-tiny")
    >>> scene = make_scene(seed=0, split="test", index=3)
    >>> chat = groma.chat(scene.draw())
    >>> for box in scene.boxes_xyxy[:2]:
    ...     answer = chat.ask("What is this?", boxes=[box], max_new_tokens=16)
    >>> len(chat.turns)
    2

    ```"""

    def __init__(self, pipe: Pipeline, perceived: PerceivedImage, settings: SettingsReader) -> None:
        self._pipe = pipe
        self._perceived = perceived
        self._read_settings = settings
        self._turns: list[ChatTurn] = []
        # What the model has read: `None` where it has to read the conversation anew.
        self._cache: Cache | None = None
        self._sequences: Tensor | None = None
        # Masks that users gave or clicked: of all turns in their order, and by their numbers in the cache.
        self._user_masks: list[np.ndarray | None] = []
        self._known_masks: dict[int, np.ndarray] = {}
        self._is_answering = threading.Lock()

    @property
    def turns(self) -> tuple[ChatTurn, ...]:
        """The questions so far and their answers."""
        return tuple(self._turns)

    @property
    def image_size(self) -> ImageSize:
        """Height and width in pixels of the upright image, which boxes refer to."""
        return self._perceived.size

    @property
    def tokens_left(self) -> int | None:
        """How many tokens the model can still read and write in this chat; `None` if its model sets no limit."""
        limit = longest_prompt(self._pipe)
        if limit is None:
            return None
        if self._sequences is not None:
            return max(limit - self._sequences.shape[1], 0)
        return max(limit - prompt_length(self._pipe, self._messages()), 0)

    def ask(
        self,
        question: str,
        boxes: Any = None,
        *,
        regions: Any = None,
        grounded: bool = False,
        stream: bool = False,
        **settings: Unpack[BoxSettings],
    ) -> GroundedText | Iterator[GroundedText]:
        """Ask the next question.

        Args:
            question (`str`): plain text; control tokens in it are text, too, but `[grounding]` at its head and
                `<region>`. Without a `<region>` mark the regions are named at its end.
            boxes (array-like of shape `(n, 4)`, `Regions`, or a list of regions, *optional*): regions that this
                question points at, `xyxy` in absolute pixels of the upright image. Those of earlier questions are not
                repeated.
            regions (*optional*): the same under a name that also fits clicks, scribbles and masks, in all forms that
                [`read_region`] takes. Not both.
            grounded (`bool`): whether the phrases of the answer should be tied to regions, as `[grounding]` asks.
            stream (`bool`): whether to return an iterator over the answer so far; the last one is the whole answer.
                The question is asked when the loop begins. Leaving it stops the model, and the turn keeps what was
                written by then.
            **settings: `max_new_tokens`, `generate_kwargs`, `masks`, `box_format` and `normalized`, as for the
                pipeline. With `stream` the last answer has the masks.

        Returns:
            `GroundedText`, or an iterator over several. `regions` of the answer are those of the whole chat,
            `user_regions` those of this question.

        Raises:
            TypeError: an unknown setting.
            ValueError: a bad question or region, settings that do not give one answer, or a chat that is full: its
                tokens or its regions would be more than the model reads. The chat remains as it was.
            RuntimeError: another question of this chat is being answered.

        Example:
        ```python
        answer = chat.ask("What is this?", boxes=[[30, 212, 372, 585]])
        for partial in chat.ask("What is right of it?", grounded=True, stream=True):
            print(partial.text)
        ```
        """
        checked = self._read_settings(settings)
        generation, form = checked.generation, checked.form
        check_flags(grounded=grounded, stream=stream)
        generation.check_one_answer("A chat")
        generation.check()
        _check_cache_settings(generation)
        given, name = one_of(boxes, regions)
        prompts = read_regions(given, self.image_size, form.box_format, form.normalized, name)
        text = marked_question(Given(question, "question"), len(prompts), grounded, name)
        with self._turn():
            with self._pipe.device_placement():
                (found,) = find_regions(self._pipe.model, [self._perceived.features], [self.image_size], [prompts])
            if stream:
                # The question is asked when the loop begins, but a full chat says so now.
                if self._next_prompt(text, found, generation) is None:
                    self._messages_anew(text, found, generation)
                return self._stream(text, found, checked)
            prompt = self._prompt(text, found, generation)
            self._cache = None  # until the model is done: an error leaves a part of the turn in it
            with self._pipe.device_placement():
                output = generate(self._pipe, prompt, generation)
                return self._end(text, found, prompt, output, checked.masks)

    def _stream(self, text: str, found: list[PointedRegion], settings: VerbSettings) -> Iterator[GroundedText]:
        with self._turn():
            prompt = self._prompt(text, found, settings.generation)
            self._cache = None

            def read(output: Any) -> GroundedText:
                return self._end(text, found, prompt, output, settings.masks)

            # Closed here where this generator is, and not only when it is collected.
            with closing(stream_answer(self._pipe, prompt, settings.generation, read)) as answers:
                for answer in answers:
                    yield _of_question(answer, len(found))

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One question at a time: the next one continues what the model has read."""
        if not self._is_answering.acquire(blocking=False):
            raise RuntimeError(
                "This chat is still answering a question. Read its answer to the end, or leave the loop over it, "
                "before you ask the next one."
            )
        try:
            yield
        finally:
            self._is_answering.release()

    def _end(self, text: str, found: list[PointedRegion], prompt: Prompt, output: Any, masks: bool) -> GroundedText:
        """Keep an answer, and what the model has read."""
        (answer,) = read_answers(self._pipe, prompt, output)
        known = {**self._known_masks, **masks_of_user(answer, prompt.user_masks[0])}
        answer = _of_question(answer, len(found))
        if masks:
            (answer,) = add_masks(
                *(self._pipe.model, prompt.features, [answer], [self.image_size], [known]),
                region_boxes=prompt.regions["region_boxes"],
            )
        self._cache, self._sequences, self._known_masks = prompt.inputs["past_key_values"], output.sequences, known
        self._user_masks += [region.mask for region in found]
        boxes = torch.tensor([region.box for region in found]).reshape(-1, 4)
        self._turns.append(ChatTurn(text, boxes, answer))
        return answer

    def _prompt(self, text: str, found: list[PointedRegion], generation: Generation) -> Prompt:
        """The prompt that asks a question: the next turn of what the model has read, or all turns anew."""
        prompt = self._next_prompt(text, found, generation)
        if prompt is not None:
            return prompt
        messages = self._messages_anew(text, found, generation)
        user_masks = [*self._user_masks, *(region.mask for region in found)]
        with self._pipe.device_placement():
            prompt = prompt_about(self._pipe, [messages], [self._perceived], [user_masks])
        self._known_masks = {}  # regions get new numbers
        return replace(prompt, inputs={**prompt.inputs, "past_key_values": self._pipe.model.new_cache()})

    def _next_prompt(self, text: str, found: list[PointedRegion], generation: Generation) -> Prompt | None:
        """The next turn of what the model has read; `None` if it cannot be one, or does not fit with its answer."""
        if self._cache is None or _hide_masks(found, self.image_size):
            return None
        sizes = [(self.image_size.height, self.image_size.width)]
        boxes = [region.box for region in found]
        try:
            turn = self._pipe.processor.next_turn(self._sequences, text, [boxes] if boxes else None, sizes)
            regions = self._pipe.model.cached_regions(self._cache, turn.get("refer_boxes"))
        except ValueError:
            # No region slot is free, or the chat template writes earlier turns differently when one is added: then
            # the conversation can be read anew. Nothing is hidden: what is wrong with the question itself is refused
            # there, too. (A class of its own would not be the same class in a model's remote code.)
            return None
        if not self._fits(turn["input_ids"].shape[1], generation):
            return None
        return Prompt(
            inputs={**turn, "past_key_values": self._cache},
            asked=dict(turn),
            regions={"region_boxes": regions.boxes, "region_scores": regions.scores, "region_mask": regions.mask},
            sizes=[self.image_size],
            features=self._perceived.features,
            user_masks=[[region.mask for region in found]],
        )

    def _messages_anew(self, text: str, found: list[PointedRegion], generation: Generation) -> list[dict[str, Any]]:
        """The conversation with a question, to be read from its beginning; refused if it does not fit."""
        most = getattr(self._pipe.model.config, "max_regions", None)
        count = len(found) + sum(len(turn.boxes) for turn in self._turns)
        if most is not None and count > most:
            raise ValueError(
                f"The chat is full: with this question it points at {count} regions, but the model takes {most} where "
                "it reads a conversation anew; a region that is pointed at again counts again. Begin another chat for "
                "the new ones."
            )
        messages = self._messages(question_parts(text, [region.box for region in found]))
        length = prompt_length(self._pipe, messages)
        if not self._fits(length, generation):
            raise ValueError(
                f"The chat is full: with this question it has {length} tokens and the answer up to "
                f"{generation.max_new_tokens} (`max_new_tokens`), but the model reads {longest_prompt(self._pipe)} in "
                "all. Lower `max_new_tokens`, shorten the question, or begin another chat."
            )
        return messages

    def _messages(self, parts: Sequence[Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
        """The conversation so far and a question. Earlier answers are plain text: their slots mean nothing anew."""
        messages = []
        for turn in self._turns:
            messages.append({"role": "user", "content": question_parts(turn.question, turn.boxes.tolist())})
            messages.append({"role": "assistant", "content": turn.answer.text})
        if parts is not None or not messages:
            messages.append({"role": "user", "content": list(parts or [])})
        messages[0]["content"].insert(0, {"type": "image", "image": self.image_size})
        return messages

    def _fits(self, num_tokens: int, generation: Generation) -> bool:
        limit = longest_prompt(self._pipe)
        return limit is None or num_tokens + generation.max_new_tokens <= limit


def _of_question(answer: GroundedText, num_regions: int) -> GroundedText:
    """An answer whose user regions are those of its question: the last ones, where all turns were read anew."""
    earlier = len(answer.user_region_ids) - num_regions
    return replace(answer, user_region_ids=answer.user_region_ids[earlier:]) if earlier else answer


def _hide_masks(found: Sequence[PointedRegion], size: ImageSize) -> bool:
    """Whether regions of one question have the same box and different masks.

    A later turn has one number for both, and so one mask; where the conversation is read anew, each has its own.
    """
    boxes = refer_boxes_of([found], [size])[0]
    is_same = (boxes[:, None] - boxes).abs().amax(dim=-1) <= SAME_BOX_TOLERANCE
    for first, second in is_same.triu(diagonal=1).nonzero().tolist():
        masks = found[first].mask, found[second].mask
        if any(mask is not None for mask in masks) and not np.array_equal(*masks):
            return True
    return False


def _check_cache_settings(generation: Generation) -> None:
    """Refuse settings of another cache than the one that the chat keeps."""
    if generation.setting("use_cache") is False:
        raise ValueError("A chat keeps what the model has read in a cache, but `use_cache` is False. Leave it out.")
    if (kind := generation.setting("cache_implementation")) is not None:
        raise ValueError(f"A chat has a cache of its own, but `cache_implementation` is {kind!r}. Leave it out.")


__all__ = ["ChatTurn", "GroundedChat"]
