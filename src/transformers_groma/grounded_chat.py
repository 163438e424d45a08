"""A conversation about one image, which the model looks at once; each turn may point at new regions."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.pipelines.base import Pipeline

from .answer_settings import BoxSettings, Generation, check_flags
from .answering import Prompt, generate, longest_prompt, prompt_about, prompt_length, read_answer, stream_answer
from .grounding import GroundedText
from .image_inputs import ImageSize
from .perceived_images import PerceivedImage
from .region_inputs import region_boxes
from .verb_inputs import Given, RegionFormat, marked_question, question_parts

# Reads the keyword arguments of a question, with the pipeline's defaults.
SettingsReader = Callable[[Mapping[str, Any]], tuple[Generation, RegionFormat]]


@dataclass(frozen=True, eq=False)
class ChatTurn:
    """A question of a chat, and its answer.

    Args:
        question (`str`): as the model read it, with a `<region>` mark for each box.
        boxes (`Tensor` of shape `(n, 4)`): the regions that it pointed at, `xyxy` in absolute pixels of the upright
            image.
        answer (`GroundedText`): the answer; cut short where a streamed answer was not read to its end.
    """

    question: str
    boxes: Tensor
    answer: GroundedText


class GroundedChat:
    """A conversation about one image; made by `ImageGroundingPipeline.chat`.

    The model looks at the image once, and what it has read stays in its cache: a turn costs its own tokens. Boxes may
    come with every turn. Where a new one finds no region slot free, or a turn was interrupted by an error, the model
    reads the conversation so far again, its earlier answers as plain text; it does not look at the image again.

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
        self._cache: DynamicCache | None = None
        self._sequences: Tensor | None = None
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
        grounded: bool = False,
        stream: bool = False,
        **settings: Unpack[BoxSettings],
    ) -> GroundedText | Iterator[GroundedText]:
        """Ask the next question.

        Args:
            question (`str`): plain text; control tokens in it are text, too, but `[grounding]` at its head and
                `<region>`. Without a `<region>` mark the boxes are named at its end.
            boxes (array-like of shape `(n, 4)`, `Regions`, or a list of boxes and `Regions` of one, *optional*):
                regions that this question points at, `xyxy` in absolute pixels of the upright image. Those of earlier
                questions are not repeated.
            grounded (`bool`): whether the phrases of the answer should be tied to regions, as `[grounding]` asks.
            stream (`bool`): whether to return an iterator over the answer so far; the last one is the whole answer.
                The question is asked when the loop begins. Leaving it stops the model, and the turn keeps what was
                written by then.
            **settings: `max_new_tokens`, `generate_kwargs`, `box_format` and `normalized`, as for the pipeline.

        Returns:
            `GroundedText`, or an iterator over several. `regions` of the answer are those of the whole chat,
            `user_region_ids` those of this question.

        Raises:
            TypeError: an unknown setting.
            ValueError: a bad question or box, settings that do not give one answer, or a chat that is full: its tokens
                or its regions would be more than the model reads. The chat remains as it was.
            RuntimeError: another question of this chat is being answered.

        Example:
        ```python
        answer = chat.ask("What is this?", boxes=[[30, 212, 372, 585]])
        for partial in chat.ask("What is right of it?", grounded=True, stream=True):
            print(partial.text)
        ```
        """
        generation, form = self._read_settings(settings)
        check_flags(grounded=grounded, stream=stream)
        generation.check_one_answer("A chat")
        generation.check()
        _check_cache_settings(generation)
        given = region_boxes(boxes, self.image_size, form.box_format, form.normalized)
        text = marked_question(Given(question, "question"), len(given), grounded, "boxes")
        with self._turn():
            if stream:
                # The question is asked when the loop begins, but a full chat says so now.
                if self._next_prompt(text, given, generation) is None:
                    self._messages_anew(text, given, generation)
                return self._stream(text, given, generation)
            prompt = self._prompt(text, given, generation)
            self._cache = None  # until the model is done: an error leaves a part of the turn in it
            with self._pipe.device_placement():
                output = generate(self._pipe, prompt, generation)
            return self._end(text, given, prompt, output)

    def _stream(self, text: str, boxes: list[list[float]], generation: Generation) -> Iterator[GroundedText]:
        with self._turn():
            prompt = self._prompt(text, boxes, generation)
            self._cache = None
            yield from stream_answer(
                self._pipe, prompt, generation, lambda _, asked, output: self._end(text, boxes, asked, output)
            )

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

    def _end(self, text: str, boxes: list[list[float]], prompt: Prompt, output: Any) -> GroundedText:
        """Keep an answer, and what the model has read."""
        answer = read_answer(self._pipe, prompt, output)
        self._cache, self._sequences = prompt.inputs["past_key_values"], output.sequences
        self._turns.append(ChatTurn(text, torch.tensor(boxes).reshape(-1, 4), answer))
        return answer

    def _prompt(self, text: str, boxes: list[list[float]], generation: Generation) -> Prompt:
        """The prompt that asks a question: the next turn of what the model has read, or all turns anew."""
        prompt = self._next_prompt(text, boxes, generation)
        if prompt is not None:
            return prompt
        messages = self._messages_anew(text, boxes, generation)
        with self._pipe.device_placement():
            prompt = prompt_about(self._pipe, [messages], [self._perceived])
        cache = DynamicCache(config=self._pipe.model.config.get_text_config())
        return replace(prompt, inputs={**prompt.inputs, "past_key_values": cache})

    def _next_prompt(self, text: str, boxes: list[list[float]], generation: Generation) -> Prompt | None:
        """The next turn of what the model has read; `None` if it cannot be one, or does not fit with its answer."""
        if self._cache is None:
            return None
        sizes = [(self.image_size.height, self.image_size.width)]
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
        )

    def _messages_anew(self, text: str, boxes: list[list[float]], generation: Generation) -> list[dict[str, Any]]:
        """The conversation with a question, to be read from its beginning; refused if it does not fit."""
        most = getattr(self._pipe.model.config, "max_regions", None)
        count = len(boxes) + sum(len(turn.boxes) for turn in self._turns)
        if most is not None and count > most:
            raise ValueError(
                f"The chat is full: with this question it points at {count} regions, but the model takes {most} where "
                "it reads a conversation anew; a region that is pointed at again counts again. Begin another chat for "
                "the new ones."
            )
        messages = self._messages(question_parts(text, boxes))
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


def _check_cache_settings(generation: Generation) -> None:
    """Refuse settings of another cache than the one that the chat keeps."""
    if generation.setting("use_cache") is False:
        raise ValueError("A chat keeps what the model has read in a cache, but `use_cache` is False. Leave it out.")
    if (kind := generation.setting("cache_implementation")) is not None:
        raise ValueError(f"A chat has a cache of its own, but `cache_implementation` is {kind!r}. Leave it out.")


__all__ = ["ChatTurn", "GroundedChat"]
