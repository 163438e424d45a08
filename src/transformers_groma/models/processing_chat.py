"""Conversations about images: complete ones, rendered by any chat template, or the next turn of one."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from ..boxes import BoxFormat
from ..control_tokens import break_control_tokens, break_in_values, control_tokens, has_breaks
from ..markup import GROUND_BOX_TOKEN, GROUNDING_TOKEN, IMAGE_TOKEN, REGION_MARK
from ..region_inputs import REGION_KEYS
from .chat_templates import (
    PIECES_KEY,
    PIECES_TEMPLATE,
    PartsAsText,
    is_template_error,
    marks_answers,
    split_answers,
    with_parts,
)
from .processing_inputs import (
    GromaBatchFeature,
    as_texts,
    check_marks,
    check_phrase_part,
    pad_left,
    plain_part,
    refuse_other_media,
)
from .processing_regions import referred_regions


class GroundedConversations(ProcessorMixin):
    """What the processors of all families do with conversations.

    A family says in its class what differs: `parts_as_text`, `answer_tokens` and `learns_boxes`.
    """

    image_token: str
    image_token_id: int
    num_image_tokens: int
    # What the family writes for the parts of messages in other models' chat templates.
    parts_as_text: PartsAsText
    # Whether answers are learned with the boxes of their phrases, `<ground_box>` for each.
    learns_boxes: bool

    @property
    def answer_tokens(self) -> set[str]:
        """The markup of answers, which stays in messages of the assistant."""
        raise NotImplementedError

    def _control_tokens(self, template: str | None) -> tuple[str, ...]:
        """What a user may not type: control tokens, and marks that the vocabulary need not have."""
        tokens = control_tokens(self.tokenizer, template)
        return (*tokens, *(mark for mark in (IMAGE_TOKEN, REGION_MARK) if mark not in tokens))

    def _points_at(self, message: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
        """Whether a part is a region that the user points at."""
        return part.get("type") == "region"

    def _with_requests(self, conversation: Any) -> Any:
        """Conversations with `[grounding]` in the words of the family; here it is a token of its own."""
        return conversation

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]] | list[list[dict[str, Any]]],
        chat_template: str | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        parse_tokens: bool = False,
        sanitize_control_tokens: bool | None = None,
        **kwargs,
    ) -> str | list[str] | BatchFeature:
        """Render conversations and, with `tokenize=True`, prepare them for the model.

        Message parts, besides `{"type": "text", "text": …}` and `{"type": "image", "image": …}` (one per
        conversation):

        - `{"type": "region", "box": [x1, y1, x2, y2]}`: a region that the user points at. In place of `box` it may
          have `point`, `points` (with `labels`), `scribble` or `mask`, and beside points `ambiguity`, as the dicts
          that [`read_region`] takes;
        - `{"type": "phrase", "text": "two dogs", "boxes": [[…], […]]}`: text tied to boxes, for training. The text may
          be empty, and so may the boxes (a phrase to locate).

        Boxes are `xyxy`, and boxes and points are absolute pixels of the upright image, unless `processor_kwargs` has
        `box_format` or `normalized`.

        Control tokens that are typed in a conversation (`<image>`, `<r5>`, `</s>`, …) are plain text for the model.
        What stays a mark: `[grounding]` at the head of a user's message, `<region>` and `<ground_box>` where
        `processor_kwargs` has their `boxes` or `regions`, and in messages of the assistant the markup of its answers
        (`<p>`, `<roi>`, `<r5>`), so that an answer can be part of the history.

        Args:
            conversation (`list`): one conversation (a list of messages) or a batch of them.
            chat_template (`str`, *optional*): another template than the processor's default, or the name of one of
                several.
            processor_kwargs (`dict`, *optional*): arguments for `__call__`; not changed.
            parse_tokens (`bool`): whether control tokens in the conversation are tokens, for those who write parts of
                prompts. Without `tokenize=True` nothing is marked as plain text: whoever passes on the rendered text
                passes a whole prompt.
            sanitize_control_tokens (`bool`, *optional*): transformers' name for the opposite of `parse_tokens`.
            **kwargs: as for every processor: `tokenize`, `return_dict`, `return_tensors`, `add_generation_prompt`,
                `return_assistant_tokens_mask`, …

        Returns:
            Text, or with `tokenize=True` and `return_dict=True` the same as `__call__`. `assistant_masks` are 1 on all
            that the model has to write: answers with the end of their turn. The template need not have `{% generation
            %}` for that.

        Raises:
            ValueError: as `__call__`; also for a part without the data it needs, and where the template refuses the
                conversation.
        """
        template = self._resolve_chat_template(chat_template)
        # The library would write into the caller's dictionary. A template writes all special tokens of its format
        # itself.
        processor_kwargs = {"add_special_tokens": False, **(processor_kwargs or {})}
        if sanitize_control_tokens is not None:
            if sanitize_control_tokens and not kwargs.get("tokenize"):
                raise ValueError(
                    "`sanitize_control_tokens=True` needs `tokenize=True`: rendered text cannot distinguish them."
                )
            parse_tokens = not sanitize_control_tokens
        if kwargs.get("tokenize"):
            self._refuse_two_places(conversation, processor_kwargs)
            if not parse_tokens:
                conversation, kwargs = self._plain_conversation(conversation, processor_kwargs, template, kwargs)
            # What the template wrote is a whole prompt.
            processor_kwargs["parse_tokens"] = True
        conversation = self._with_requests(conversation)
        template = with_parts(template, self.parts_as_text, self.image_token, self.tokenizer.special_tokens_map)
        try:
            if kwargs.get("return_assistant_tokens_mask") and not marks_answers(template):
                conversation, kwargs = self._find_answers(conversation, template, kwargs)
                template = PIECES_TEMPLATE
            return super().apply_chat_template(
                conversation, chat_template=template, processor_kwargs=processor_kwargs, **kwargs
            )
        except Exception as error:
            if not is_template_error(error):
                raise
            raise ValueError(f"The chat template refuses the conversation: {error}") from error

    def _plain_conversation(
        self, conversation: Any, processor_kwargs: Mapping[str, Any], chat_template: str, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Make control tokens plain text in a conversation and its template variables, except its marks.

        A user's "[grounding] What does <p> mean in <region>?" with a box keeps `[grounding]` and `<region>`; its `<p>`
        gets a break inside. In an answer "<p>A dog</p><roi><r3></roi></s>" all stays but the `</s>`, which would end
        the turn.
        """
        tokens = self._control_tokens(chat_template)
        has_regions = any(processor_kwargs.get(name) is not None for name in ("boxes", "regions"))
        marks = {REGION_MARK} if has_regions else set()
        marks |= {GROUND_BOX_TOKEN} if processor_kwargs.get("ground_boxes") is not None else set()
        answer_marks = {*marks, *self.answer_tokens}
        conversations, is_batched = self._normalize_conversations(conversation)
        for messages in conversations:
            for message in messages:
                role, content = message.get("role"), message.pop("content", None)
                message.update(break_in_values(message, tokens, self.tokenizer))
                if content is None:
                    continue
                keep = answer_marks if role == "assistant" else marks
                keep_first = GROUNDING_TOKEN if role == "user" else None
                # All texts of a message together: a template may render one right behind the other.
                parts = (
                    [part for part in content if isinstance(part.get("text"), str)]
                    if isinstance(content, list)
                    else []
                )
                texts = [content] if isinstance(content, str) else [part["text"] for part in parts]
                plain = break_control_tokens(texts, tokens, self.tokenizer, sorted(keep), keep_first)
                if isinstance(content, str):
                    (content,) = plain
                for part, text in zip(parts, plain):
                    part["text"] = text
                message["content"] = content
        others = {
            name: break_in_values(kwargs[name], tokens, self.tokenizer)
            for name in ("tools", "documents")
            if kwargs.get(name)
        }
        return conversations if is_batched else conversations[0], {**kwargs, **others}

    def _find_answers(self, conversation: Any, template: str, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Render conversations into pieces of text for `PIECES_TEMPLATE`, with the arguments that it still needs.

        The library finds answers by `{% generation %}` in a template, which few templates have. So the conversation
        is rendered once without, cut at its answers, and handed on to a template that only puts the pieces together
        again, with `{% generation %}` around the answers. Templates see messages, so the first one carries the pieces.
        """
        known = inspect.signature(ProcessorMixin.apply_chat_template).parameters
        for_template = {name: value for name, value in kwargs.items() if name not in known and name in template}
        rendering = {**for_template, **{name: kwargs.get(name) for name in ("tools", "documents")}}

        def render(messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> str:
            return ProcessorMixin.apply_chat_template(
                self, list(messages), chat_template=template, add_generation_prompt=add_generation_prompt, **rendering
            )

        conversations, is_batched = self._normalize_conversations(conversation)
        for messages in conversations:
            pieces = split_answers(messages, render, kwargs.get("add_generation_prompt", False))
            messages[0][PIECES_KEY] = [piece._asdict() for piece in pieces]
        return (
            conversations if is_batched else conversations[0],
            {name: value for name, value in kwargs.items() if name not in for_template},
        )

    def _normalize_conversations(self, conversation: Any) -> tuple[list, bool]:
        """Also convert the boxes of parts to lists, because templates see arrays and tensors only as strings."""
        conversations, is_batched = super()._normalize_conversations(conversation)
        for messages in conversations:
            for message in messages:
                if isinstance(message.get("content"), (list, tuple)):
                    message["content"] = [plain_part(part) for part in message["content"]]
                    for part in message["content"]:
                        if isinstance(part, Mapping):
                            refuse_other_media({str(part.get("type")): part}, "message part")
                            if part.get("type") == "phrase":
                                check_phrase_part(part)
        return conversations, is_batched

    def _multimodal_inputs_from_conversations(
        self,
        conversations: list[list[dict[str, Any]]],
        audio_loading_params: dict[str, Any],
        load_audio_from_video: bool = False,
    ):
        """Also collect the regions and boxes of region and phrase parts, in the order of their marks in the text."""
        images, videos, audio, additional_inputs = super()._multimodal_inputs_from_conversations(
            conversations, audio_loading_params, load_audio_from_video
        )
        regions: list[list] = [[] for _ in conversations]
        ground_boxes: list[list] = [[] for _ in conversations]
        for index, messages in enumerate(conversations):
            for message in messages:
                content = message.get("content") or []
                for part in [] if isinstance(content, str) else content:
                    if self._points_at(message, part):
                        if not any(key in part for key in REGION_KEYS):
                            raise ValueError(
                                f"A region part needs a `box`, {{'type': 'region', 'box': […]}}, or another of "
                                f"{', '.join(REGION_KEYS[1:])}, got {part}."
                            )
                        regions[index].append(part)
                    elif part["type"] == "phrase" and self.learns_boxes:
                        ground_boxes[index].extend(part.get("boxes", []))
        # Only when there are some: they can also come in `processor_kwargs`, for `<region>` marks in text parts.
        if all(set(part) == {"type", "box"} for parts in regions for part in parts):
            if any(regions):
                additional_inputs["boxes"] = [[part["box"] for part in parts] for parts in regions]
        else:
            additional_inputs["regions"] = regions
        if any(ground_boxes):
            additional_inputs["ground_boxes"] = ground_boxes
        return images, videos, audio, additional_inputs

    def _refuse_two_places(self, conversation: Any, processor_kwargs: Mapping[str, Any]) -> None:
        """Refuse regions that come in parts and in `processor_kwargs`: nothing says which mark is of which."""
        conversations, _ = self._normalize_conversations(conversation)
        parts = [
            (message, part)
            for messages in conversations
            for message in messages
            if isinstance(message.get("content"), list)
            for part in message["content"]
            if isinstance(part, Mapping) and part.get("boxes") != []
        ]
        kinds = {"region" for message, part in parts if self._points_at(message, part)}
        kinds |= {"phrase" for _, part in parts if part.get("type") == "phrase" and self.learns_boxes}
        for name, kind in (("boxes", "region"), ("regions", "region"), ("ground_boxes", "phrase")):
            if processor_kwargs.get(name) is not None and kind in kinds:
                raise ValueError(
                    f"`processor_kwargs` has `{name}`, but the conversation has {kind} parts, too. Write all of them "
                    "as parts, or none."
                )

    def next_turn(
        self,
        sequences: torch.Tensor,
        text: str | Sequence[str],
        boxes: Sequence[Any] | np.ndarray | torch.Tensor | None = None,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        box_format: BoxFormat | None = None,
        normalized: bool | None = None,
        parse_tokens: bool = False,
        regions: Sequence[Any] | np.ndarray | torch.Tensor | None = None,
    ) -> BatchFeature:
        """Continue conversations with another question.

        The result is for `model.generate(**turn, past_key_values=output.past_key_values)`, which does not look at the
        image again.

        Args:
            sequences (`Tensor` of shape `(B, L)`): `output.sequences`, the conversations so far with their prompts.
            text (`str` or `list[str]`): the next question of each, as in `__call__`; `<region>` marks are of this
                turn.
            boxes (array-like of shape `(n, 4)`, or a list of these or `None`, one per sample, *optional*): regions of
                this turn, in the order of its `<region>` marks; those of earlier turns are not repeated.
            target_sizes (`Sequence[tuple[int, int]]`, *optional*): (height, width) in pixels of the upright image of
                each sample that has one. Needed with `boxes` and `regions`.
            box_format (`str`, *optional*), normalized (`bool`, *optional*): as in `__call__`.
            parse_tokens (`bool`): whether control tokens in the text are tokens, as in `__call__`.
            regions (as in `__call__`, *optional*): in place of `boxes`, regions of this turn in any form. A model with
                a cache takes boxes alone: where `regions` have points, `model.resolve_points` makes boxes of them.

        Returns:
            `BatchFeature`: `input_ids` and `attention_mask` `(B, L + new)` of the whole conversations and, with boxes,
            `refer_boxes` `(B_img, K, 4)` of this turn only, and what `__call__` has for points.

        Raises:
            ValueError: if the arguments are wrong or do not fit each other; the message says what to do.

        Example:
        ```python
        output = model.generate(**inputs, max_new_tokens=64, return_dict_in_generate=True)
        sizes = [(480, 640)]
        turn = processor.next_turn(output.sequences, "And <region>?", boxes=[[10, 10, 90, 80]], target_sizes=sizes)
        output = model.generate(
            **turn, past_key_values=output.past_key_values, max_new_tokens=64, return_dict_in_generate=True
        )
        answer = processor.post_process_grounded_generation(output, turn, target_sizes=sizes)[0]
        ```
        """
        questions = as_texts(text)
        if len(questions) != len(sequences):
            raise ValueError(
                f"`text` has {len(questions)} questions for {len(sequences)} `sequences`. Pass one for each."
            )
        has_image = ((sequences == self.image_token_id).sum(dim=-1) >= self.num_image_tokens).tolist()
        for name, value in (("boxes", boxes), ("regions", regions)):
            if value is not None and target_sizes is None:
                raise ValueError(
                    f"`{name}` need `target_sizes`, the (height, width) of each image: they are pixels of it."
                )
        if target_sizes is not None and len(target_sizes) != sum(has_image):
            raise ValueError(
                f"`target_sizes` must have one (height, width) for each image: got {len(target_sizes)} for "
                f"{sum(has_image)}."
            )
        sizes = iter(target_sizes or [(1, 1)] * sum(has_image))
        sizes = [tuple(int(side) for side in next(sizes)) if image else None for image in has_image]
        referred = referred_regions(boxes, regions, sizes, box_format or "xyxy", bool(normalized))
        if not parse_tokens:
            questions = [self._plain_question(question, {REGION_MARK}) for question in questions]
        for index, question in enumerate(questions):
            check_marks(referred.name, REGION_MARK, question, len(referred.boxes[index]), index)

        masks = [self._mask_of_conversation(ids) for ids in sequences]
        positions = torch.arange(1, sequences.shape[1] + 1, device=sequences.device)
        ends = [int((mask * positions).max()) for mask in masks]  # after the last id that is not padding
        turns = [
            self._turn_ids(question, ids[:end].tolist()) for ids, end, question in zip(sequences, ends, questions)
        ]
        # Turns of different lengths are padded on their left, so that all end where the next answers begin:
        #     [prompt of A][answer of A     ][pad][turn of A]
        #     [prompt of B][answer of B][pad][longer turn of B]
        # The mask is 0 on both kinds of padding.
        new = pad_left(turns, self.tokenizer.pad_token_id)
        data = {
            "input_ids": torch.cat([sequences, new["input_ids"].to(sequences)], dim=1),
            "attention_mask": torch.cat([torch.stack(masks), new["attention_mask"].to(sequences)], dim=1),
        }
        for name, rows in referred.inputs().items():
            data[name] = torch.as_tensor(np.stack(rows), device=sequences.device)
        return GromaBatchFeature(data)

    def _mask_of_conversation(self, ids: torch.Tensor) -> torch.Tensor:
        """1 on the ids `(L,)` of a conversation, 0 on padding: before prompts, and after answers that ended early."""
        pad_token_id = self.tokenizer.pad_token_id
        is_padding = ids == (-1 if pad_token_id is None else pad_token_id)
        if pad_token_id != self.tokenizer.eos_token_id:
            return (~is_padding).long()
        # One token ends answers and pads. The first one after the last answer is its end and stays.
        mask = torch.ones_like(ids)
        others = (~is_padding).nonzero()
        mask[int(others.max()) + 2 if len(others) else 1 :] = 0
        return mask

    def _turn_ids(self, question: str, ids: list[int]) -> list[int]:
        """The continuation of a conversation's `ids`: the end of its answer, if the model omitted it, and a question.

        In Groma's template an answer ends with `</s>`. After "… ASSISTANT: Yes." that is still missing and the ids are
        those of "</s>USER: And it? ASSISTANT:"; after "… ASSISTANT: Yes.</s>" those of "USER: And it? ASSISTANT:".
        """
        # What the template writes between an answer and the next one is read off a conversation of any words.
        answer = "Yes."
        begin = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": answer}]
        before = self.apply_chat_template(begin)
        after = self.apply_chat_template([*begin, {"role": "user", "content": question}], add_generation_prompt=True)
        if answer not in before or not after.startswith(before):
            raise ValueError(
                "The chat template changes earlier turns when a turn is added, so the conversation cannot be "
                "continued from a cache. Pass the whole conversation to `apply_chat_template` instead."
            )
        end = before[before.rindex(answer) + len(answer) :]
        (expanded,), _ = self.get_text_with_replacements([end + after[len(before) :]])
        options = {"sanitize_control_tokens": True} if has_breaks([expanded]) else {}
        new = self.tokenizer(expanded, add_special_tokens=False, **options)["input_ids"]
        said = len(self.tokenizer(end, add_special_tokens=False)["input_ids"])
        while said > 0 and ids[len(ids) - said :] != new[:said]:
            said -= 1
        return new[said:]


__all__ = ["GroundedConversations"]
