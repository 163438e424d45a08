"""What the processors of all families do with images, text and regions: from a call's arguments to a model's inputs.

Marks in text, and who writes them. `<region>` stands for a region that the user points at, the image's token for the
image; a family says what they become. A text with the mark of the image is a finished prompt, any other text about an
image is a question, which is put into the chat template.

Conversations are in `processing_chat.py`; what callers pass is checked in `processing_inputs.py`, and control tokens
that a user typed are made plain text by `control_tokens.py`.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import BatchFeature

from ..boxes import BoxFormat
from ..control_tokens import break_control_tokens, has_breaks, piecewise_offsets, without_breaks
from ..image_inputs import ImageSize, image_size
from ..markup import GROUNDING_TOKEN, REGION_MARK
from ..questions import QuestionWording
from .processing_chat import GroundedConversations
from .processing_inputs import (
    GromaBatchFeature,
    as_texts,
    assign_images,
    check_marks,
    count_marks,
    mark_pattern,
    pad_boxes,
    prepare_boxes,
    refuse_other_media,
)
from .processing_regions import ReferredRegions, referred_regions


class AnswerBoxes(NamedTuple):
    """Boxes of answers, for a family that learns them.

    Attributes:
        name (`str`): the argument they came in, and the input that they become.
        mark (`str`): their mark in text, one for each.
        boxes: as callers pass them.
    """

    name: str
    mark: str
    boxes: Any


class GroundingProcessor(GroundedConversations):
    """The base of the processors of all families."""

    question_wording: QuestionWording

    def _prepare(
        self,
        images: Any,
        text: Any,
        boxes: Any,
        regions: Any,
        box_format: BoxFormat | None,
        normalized: bool | None,
        parse_tokens: bool | None,
        kwargs: dict[str, Any],
        answer_boxes: AnswerBoxes | None = None,
    ) -> BatchFeature:
        """Do what the call of a family's processor says; `kwargs` are those that every processor takes."""
        refuse_other_media(kwargs, "argument")
        merged_kwargs = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        channels = merged_kwargs["images_kwargs"].get("input_data_format")

        # What was passed: texts, images and boxes of each sample.
        texts = as_texts(text)
        marks = {REGION_MARK}
        if answer_boxes is not None and answer_boxes.boxes is not None:
            marks.add(answer_boxes.mark)
        if texts is not None and parse_tokens is False:
            texts = [self._plain_question(question, marks) for question in texts]
        elif texts is not None:
            texts = [self._with_image_mark(text) for text in texts]
        images_of_samples = assign_images(images, texts, self.image_token, self.image_mark)
        sizes = [
            None if image is None else image_size(image, f"`images` of sample {index}", channels)
            for index, image in enumerate(images_of_samples)
        ]
        format_and_sizes = (sizes, box_format or "xyxy", bool(normalized))
        referred = referred_regions(boxes, regions, *format_and_sizes)
        marked = [(referred.name, REGION_MARK, referred.boxes)]
        if answer_boxes is not None:
            found = prepare_boxes(answer_boxes.name, answer_boxes.boxes, *format_and_sizes)
            marked.append((answer_boxes.name, answer_boxes.mark, found))
        self._check_regions(referred, marked[-1][2])

        # The prompts: questions in the chat template, what users typed as plain text.
        if texts is None:
            texts = [self.question_wording.default(len(boxes_of_sample)) for boxes_of_sample in referred.boxes]
        elif parse_tokens is not False:
            texts = [
                self._plain_question(text, marks)
                if parse_tokens is None and self._is_question(text, image)
                else self._with_region_marks(text)
                for text, image in zip(texts, images_of_samples)
            ]
        for name, mark, boxes_of_samples in marked:
            for index, boxes_of_sample in enumerate(boxes_of_samples):
                check_marks(name, mark, texts[index], len(boxes_of_sample), index)
        are_questions = [self._is_question(*sample) for sample in zip(texts, images_of_samples)]
        texts = self._wrap_questions(texts, are_questions)
        if has_breaks(texts):
            # The tokenizer's way of encoding control tokens as text.
            kwargs["sanitize_control_tokens"] = True
        if "add_special_tokens" not in merged_kwargs["text_kwargs"]:
            texts, is_complete = self._with_same_start(texts, are_questions)
            if is_complete:
                kwargs["add_special_tokens"] = False

        # The library expands the marks (`get_text_with_replacements`), encodes the texts and prepares the images.
        present = [index for index, image in enumerate(images_of_samples) if image is not None]
        images = [images_of_samples[i] for i in present]
        if any(isinstance(image, ImageSize) for image in images):
            outputs = self._encode_without_pixels(images, texts, kwargs)
        else:
            outputs = super().__call__(images=images or None, text=texts, **kwargs)
        if has_breaks(texts) and merged_kwargs["text_kwargs"].get("return_offsets_mapping"):
            outputs["offset_mapping"] = self._offsets_of_broken_texts(texts, outputs["attention_mask"])
        rows = referred.inputs()
        for name, _, boxes_of_samples in marked[1:]:
            if any(len(boxes_of_sample) > 0 for boxes_of_sample in boxes_of_samples):
                rows[name] = pad_boxes([boxes_of_samples[i] for i in present])
        outputs.update(BatchFeature(rows, tensor_type=merged_kwargs["text_kwargs"].get("return_tensors")))
        return GromaBatchFeature(outputs.data, skip_tensor_conversion=outputs.skip_tensor_conversion)

    def _encode_without_pixels(
        self, images: Sequence[Any], texts: list[str], kwargs: Mapping[str, Any]
    ) -> BatchFeature:
        """What the library makes of texts about images, without `pixel_values`: the model has seen them all."""
        if not all(isinstance(image, ImageSize) for image in images):
            raise ValueError(
                "`images` mixes images and `ImageSize`s. Pass all of the images, or encode them all before and pass "
                "their sizes."
            )
        options = dict(self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)["text_kwargs"])
        for name in ("return_mm_token_type_ids", "return_text_replacement_offsets"):
            if options.pop(name, False):
                raise ValueError(f"`{name}` needs images with pixels, but `images` are `ImageSize`s.")
        expanded, _ = self.get_text_with_replacements(texts, [self.replace_image_token({}, 0)] * len(images))
        return BatchFeature(self.tokenizer(expanded, **options).data)

    def count_tokens(self, text: str | None = None, num_boxes: int = 0, parse_tokens: bool | None = None) -> int:
        """How many tokens the prompt of a question about an image takes; no image is needed.

        Args:
            text (`str`, *optional*): the question; without it the default one.
            num_boxes (`int`): regions that the default question is about.
            parse_tokens (`bool`, *optional*): as in `__call__`.

        Returns:
            `int`: length of `input_ids`, without padding.

        Raises:
            ValueError: the processor has no chat template for the question.

        Example:
        >>> from transformers_groma import GromaProcessor
        >>> processor = GromaProcessor.from_pretrained("hub_configs/groma-tiny")
        >>> processor.count_tokens("What is <region>?")
        214
        """
        image = True  # any value: it is not looked at
        if text is None:
            text = self.question_wording.default(num_boxes)
        elif parse_tokens is False:
            text = self._plain_question(text, {REGION_MARK})
        else:
            text = self._with_image_mark(text)
            is_typed = parse_tokens is None and self._is_question(text, image)
            text = self._plain_question(text, {REGION_MARK}) if is_typed else self._with_region_marks(text)
        are_questions = [self._is_question(text, image)]
        texts, is_complete = self._with_same_start(self._wrap_questions([text], are_questions), are_questions)
        replacements = [self.replace_image_token({}, 0)] * count_marks(self.image_token, texts[0])
        expanded, _ = self.get_text_with_replacements(texts, replacements)
        options = {"sanitize_control_tokens": True} if has_breaks(texts) else {}
        return len(
            self.tokenizer(expanded, add_special_tokens=not is_complete, verbose=False, **options)["input_ids"][0]
        )

    def get_text_with_replacements(
        self,
        text: list[str],
        images_replacements: Sequence[str] = (),
        videos_replacements: Sequence[str] = (),
        audio_replacements: Sequence[str] = (),
    ) -> tuple[list[str], list[list[dict[str, Any]]]]:
        """Expand the marks of images and `<region>` marks in a batch of texts.

        Args:
            text (`list[str]`): the texts; the list is not changed.
            images_replacements (`Sequence[str]`): what each mark of an image becomes, in order over the batch. Without
                it these marks stay as they are.
            videos_replacements, audio_replacements: not used, the models take images only.

        Returns:
            `tuple[list[str], list[list[dict]]]`: the expanded texts and, for each text, one dict for each mark:
            `type` (`"image"` or `"region"`), `span` and `new_span` (offsets of mark and replacement), `text`,
            `replacement`.
        """
        image_iterator = iter(images_replacements)
        region_replacement = self._region_replacement()
        patterns = {"region": mark_pattern(REGION_MARK)}
        if len(images_replacements) > 0:
            patterns["image"] = self._image_pattern()
        pattern = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in patterns.items()))

        expanded, offsets = [], []
        for sample in text:
            pieces, replaced, end, length = [], [], 0, 0
            for match in pattern.finditer(sample):
                before = sample[end : match.start()]
                replacement = next(image_iterator) if match.lastgroup == "image" else region_replacement
                start = length + len(before)
                length, end = start + len(replacement), match.end()
                pieces += [before, replacement]
                replaced.append(
                    {
                        "type": match.lastgroup,
                        "span": match.span(),
                        "new_span": (start, length),
                        "text": match.group(),
                        "replacement": replacement,
                    }
                )
            expanded.append("".join([*pieces, sample[end:]]))
            offsets.append(replaced)
        return expanded, offsets

    @property
    def image_mark(self) -> str:
        """How callers write the mark of an image in a prompt."""
        return self.image_token

    def _with_image_mark(self, text: str) -> str:
        """A prompt written by hand, with the image's mark as this processor knows it."""
        return text

    def _with_region_marks(self, text: str) -> str:
        """A prompt written by hand, with `<region>` for each region that the user points at."""
        return text

    def _check_regions(self, referred: ReferredRegions, answer_boxes: Sequence[torch.Tensor]) -> None:
        """Refuse more regions than the model takes."""

    def _region_replacement(self) -> str:
        """What a `<region>` mark becomes."""
        raise NotImplementedError

    def _image_pattern(self) -> str:
        """Regular expression for what [`replace_image_token`] replaces."""
        return mark_pattern(self.image_token)

    def _is_question(self, text: str, image: Any) -> bool:
        """Whether a text is a question about an image, and not a prompt that says where the image is."""
        return image is not None and count_marks(self.image_token, text) == 0

    def _plain_question(self, question: str, marks: Collection[str]) -> str:
        """Make a question's control tokens plain text, except its marks."""
        template = self._resolve_chat_template(None) if self.chat_template else None
        tokens = self._control_tokens(template)
        return break_control_tokens([question], tokens, self.tokenizer, marks, keep_first=GROUNDING_TOKEN)[0]

    def _offsets_of_broken_texts(self, texts: list[str], attention_mask: Any) -> list[list[tuple[int, int]]]:
        """The offsets of tokens in the expanded prompts, which the library does not give for texts with breaks.

        One row for each text, as long as its padded ids; padding is at (0, 0).
        """
        num_images = sum(count_marks(self.image_token, text) for text in texts)
        expanded, _ = self.get_text_with_replacements(texts, [self.replace_image_token({}, 0)] * num_images)
        rows = []
        for text, mask in zip(expanded, np.asarray(attention_mask).astype(bool)):
            row = [(0, 0)] * len(mask)
            spans = piecewise_offsets(self.tokenizer, text)
            for position, span in zip(np.flatnonzero(mask).tolist(), spans, strict=True):
                row[position] = span
            rows.append(row)
        return rows

    def _wrap_questions(self, texts: list[str], are_questions: list[bool]) -> list[str]:
        """Put the texts that are plain questions about an image into the chat template."""
        plain = [index for index, is_question in enumerate(are_questions) if is_question]
        if not plain:
            return texts
        if self.chat_template is None:
            raise ValueError(
                f"`text` {without_breaks(texts[plain[0]])!r} is a plain question, but the processor has no chat "
                "template to put it into. Set `processor.chat_template`, or write the whole prompt with an "
                f"{self.image_mark} in it."
            )
        prompts = self.apply_chat_template(
            [
                [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": texts[index]}]}]
                for index in plain
            ],
            add_generation_prompt=True,
        )
        wrapped = dict(zip(plain, prompts))
        return [wrapped.get(index, text) for index, text in enumerate(texts)]

    def _with_same_start(self, texts: list[str], are_questions: list[bool]) -> tuple[list[str], bool]:
        """Write out the BOS tokens that texts need; also returns whether that was necessary.

        The tokenizer puts a BOS token before all texts of a batch or before none. A question comes out of the chat
        template complete, as "<s>A chat between …". Where such a text is in the batch, the other texts get theirs
        here, and the tokenizer adds none.
        """
        bos_token = self.tokenizer.bos_token
        complete = [
            is_question or (bos_token is not None and text.startswith(bos_token))
            for text, is_question in zip(texts, are_questions)
        ]
        # Texts with breaks are encoded in pieces, none of which gets a BOS token.
        if not (has_breaks(texts) or any(complete)):
            return texts, False
        if bos_token is not None and self.tokenizer("")["input_ids"][:1] == [self.tokenizer.bos_token_id]:
            texts = [text if is_done else self._with_bos(text) for text, is_done in zip(texts, complete)]
        return texts, True

    def _with_bos(self, text: str) -> str:
        """A text with its BOS token written out, so that it has the ids that it has by itself.

        Some tokenizers put a space before a text, but not before what follows a BOS token.
        """
        bos_token = self.tokenizer.bos_token
        if not has_breaks([text]):
            expected = self.tokenizer(text, verbose=False)["input_ids"]
            for written in (bos_token + text, f"{bos_token} {text}"):
                if self.tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"] == expected:
                    return written
        return bos_token + text


__all__ = ["AnswerBoxes", "GroundingProcessor"]
