"""Processor of Groma: images, text and boxes in, model inputs out; generated ids and region boxes in, grounded text out.

Marks in text:

- `<image>` stands for the image. It becomes the image tokens and the region slots `<r0><image><r1><image>…`.
- `<region>` stands for a region that the user points at, the k-th mark for the k-th box of the sample. It becomes
  `<roi><refer_box></roi><image>`; the model replaces `<refer_box>` by the proxy token of that box's slot.
- `<ground_box>` stands for a region of an answer to learn from, the k-th mark for the k-th ground-truth box.

The placeholder token `<image>` is one and the same for image patches, region slots and the features of the regions
that the user points at: the model fills in all visual features in the order of the placeholders.
"""

import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin, Unpack

from ...boxes import BoxFormat, box_cxcywh_to_xyxy, exact_boxes, scale_boxes
from ...control_tokens import (
    break_control_tokens,
    break_in_values,
    control_tokens,
    has_breaks,
    piecewise_offsets,
    without_breaks,
)
from ...grounding import GroundedText, ground_text
from ...image_inputs import image_size, read_upright
from ...markup import (
    GROUND_BOX_TOKEN,
    GROUNDING_TOKEN,
    IMAGE_TOKEN,
    PHRASE_END,
    PHRASE_START,
    REFER_BOX_TOKEN,
    REGION_END,
    REGION_MARK,
    REGION_START,
)
from ...regions import Regions, regions_of_slots
from ..processing_inputs import (
    GromaBatchFeature,
    as_texts,
    check_marks,
    count_marks,
    group_images,
    mark_pattern,
    pad_boxes,
    plain_part,
    prepare_boxes,
    refuse_other_media,
)
from .chat_template_groma import (
    GROMA_CHAT_TEMPLATE,
    PIECES_TEMPLATE,
    is_template_error,
    marks_answers,
    split_answers,
    with_parts,
)
from .tokenization_groma import groma_tokens

# Questions that are asked when there is an image but no text: with boxes and without.
DEFAULT_REGION_PROMPT = "Please give a short description of {regions}."
DEFAULT_IMAGE_PROMPT = GROUNDING_TOKEN + "Please describe the image in detail."


class GromaProcessor(ProcessorMixin):
    """Prepares images, text and boxes for Groma, and reads what it generates.

    Args:
        image_processor (`GromaImageProcessor`): the image processor.
        tokenizer (`PreTrainedTokenizerBase`): a tokenizer that has the tokens of Groma, see [`add_groma_tokens`].
        chat_template (`str` or `dict[str, str]`, *optional*): any Jinja template for conversations, or several by
            name. By default the tokenizer's own, or `GROMA_CHAT_TEMPLATE` where it has none. Templates need not know
            of images and regions: messages made of parts become text with Groma's marks before the template sees them.
        num_image_tokens (`int`): placeholders for one image.
        max_regions (`int`): region slots for one image, as in the model's config.
        region_separator (`str`): text between the image tokens and the region slots.
        image_token (`str`): the mark of the image in text, and the placeholder of all visual features.

    Raises:
        ValueError: if the tokenizer lacks tokens.

    Example:
    >>> from PIL import Image
    >>> from transformers import LlamaTokenizer
    >>> from transformers_groma import GromaImageProcessor
    >>> from transformers_groma.models.groma.tokenization_groma import add_groma_tokens
    >>> tokenizer = LlamaTokenizer()
    >>> _ = add_groma_tokens(tokenizer)
    >>> processor = GromaProcessor(GromaImageProcessor(), tokenizer)
    >>> image = Image.new("RGB", (640, 480))
    >>> inputs = processor(images=image, text="What is <region>?", boxes=[[0, 0, 320, 240]], return_tensors="pt")
    >>> inputs["refer_boxes"].tolist()
    [[[0.25, 0.25, 0.5, 0.5]]]
    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        chat_template: str | dict[str, str] | None = None,
        num_image_tokens: int = 256,
        max_regions: int = 100,
        region_separator: str = ". Regions: ",
        image_token: str = IMAGE_TOKEN,
    ):
        if chat_template is None:
            chat_template = getattr(tokenizer, "chat_template", None) or GROMA_CHAT_TEMPLATE
            if chat_template == GROMA_CHAT_TEMPLATE:
                chat_template = chat_template.replace(IMAGE_TOKEN, image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.num_image_tokens = num_image_tokens
        self.max_regions = max_regions
        self.region_separator = region_separator
        self.image_token = image_token
        vocabulary = tokenizer.get_vocab()
        needed = dict.fromkeys([*groma_tokens(max_regions), image_token])
        if missing := [token for token in needed if token not in vocabulary]:
            raise ValueError(
                f"`tokenizer` lacks {len(missing)} tokens of Groma, among them {missing[0]!r}. Call "
                f"`add_groma_tokens(tokenizer, max_regions={max_regions})` and resize the model's embeddings."
            )
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)

    def __call__(
        self,
        images: ImageInput | Sequence[Any] | None = None,
        text: str | Sequence[str] | None = None,
        boxes: Sequence[Any] | np.ndarray | torch.Tensor | None = None,
        box_format: BoxFormat | None = None,
        normalized: bool | None = None,
        ground_boxes: Sequence[Any] | np.ndarray | torch.Tensor | None = None,
        parse_tokens: bool | None = None,
        **kwargs: Unpack[ProcessingKwargs],
    ) -> BatchFeature:
        """Prepare one sample or a batch.

        Args:
            images: one image, a list with one image (or `None`) per sample, or a nested list like `[[image], []]`. An
                image is a PIL image, array, tensor, path, URL or base64 text. PIL images and files are turned upright.
            text (`str` or `list[str]`, *optional*): one text per sample. For a sample with an image, a text without
                `<image>` is a question, which is put into the chat template; a text with `<image>` is a finished
                prompt. Without text the model is asked to describe each box (`DEFAULT_REGION_PROMPT`) or, where
                there are none, the image (`DEFAULT_IMAGE_PROMPT`).
            boxes (array-like of shape `(n, 4)`, or a list of these or `None`, one per sample, *optional*): regions
                that the user points at, in the order of the `<region>` marks in the text. Absolute pixels of the
                upright image as given, before any resizing.
            box_format (`str`, *optional*): `"xyxy"` (default), `"xywh"` or `"cxcywh"`, of `boxes` and `ground_boxes`.
            normalized (`bool`, *optional*): whether boxes are fractions of the image size instead of pixels.
            ground_boxes (as `boxes`, *optional*): for training, regions of the answers, in the order of
                `<ground_box>`.
            parse_tokens (`bool`, *optional*): whether control tokens in the texts (`<image>`, `<p>`, `<r5>`, `</s>`,
                …) are tokens, for those who write whole prompts, or plain text, for questions of people. By default a
                question (a text without `<image>` for a sample with an image) is plain text and everything else is a
                prompt; with `False` every text is a question. Marks in a question are always `<region>`, one for each
                box, `[grounding]` at its head and, with `ground_boxes`, `<ground_box>`.
            **kwargs: as for every processor: `return_tensors`, `padding`, …

        Returns:
            `BatchFeature`: `input_ids` and `attention_mask` `(B, L)`, and, where there are images, `pixel_values`
            `(B_img, 3, height, width)`. If there are boxes, `refer_boxes` and `ground_boxes` `(B_img, K, 4)` float32,
            normalized `cxcywh`, filled up with rows of zeros; its `to` does not cast them. Rows of the last three are
            the samples that have an image, in order.

        Raises:
            ValueError: if the arguments are wrong or do not fit each other; the message says what to do.
        """
        refuse_other_media(kwargs, "argument")
        merged_kwargs = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        channels = merged_kwargs["images_kwargs"].get("input_data_format")

        texts = as_texts(text)
        marks = {REGION_MARK} if ground_boxes is None else {REGION_MARK, GROUND_BOX_TOKEN}
        if texts is not None and parse_tokens is False:
            texts = [self._plain_question(question, marks) for question in texts]
        images_of_samples = self._assign_images(images, texts)
        sizes = [
            None if image is None else image_size(image, f"`images` of sample {index}", channels)
            for index, image in enumerate(images_of_samples)
        ]
        format_and_sizes = (sizes, box_format or "xyxy", bool(normalized))
        refer_boxes = prepare_boxes("boxes", boxes, *format_and_sizes)
        answer_boxes = prepare_boxes("ground_boxes", ground_boxes, *format_and_sizes)
        for index, count in enumerate(len(a) + len(b) for a, b in zip(refer_boxes, answer_boxes)):
            if count > self.max_regions:
                raise ValueError(
                    f"Sample {index} has {count} `boxes` (and `ground_boxes`), but `max_regions` is "
                    f"{self.max_regions}. "
                    "Split them over several samples."
                )

        if texts is None:
            texts = [default_question(len(boxes_of_sample)) for boxes_of_sample in refer_boxes]
        elif parse_tokens is None:
            texts = [
                self._plain_question(text, marks) if self._is_question(text, image) else text
                for text, image in zip(texts, images_of_samples)
            ]
        for name, mark, boxes_of_samples in (
            ("boxes", REGION_MARK, refer_boxes),
            ("ground_boxes", GROUND_BOX_TOKEN, answer_boxes),
        ):
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

        present = [index for index, image in enumerate(images_of_samples) if image is not None]
        outputs = super().__call__(images=[images_of_samples[i] for i in present] or None, text=texts, **kwargs)
        if has_breaks(texts) and merged_kwargs["text_kwargs"].get("return_offsets_mapping"):
            outputs["offset_mapping"] = self._offsets_of_broken_texts(texts, outputs["attention_mask"])
        for name, boxes_of_samples in (("refer_boxes", refer_boxes), ("ground_boxes", answer_boxes)):
            if any(len(boxes_of_sample) > 0 for boxes_of_sample in boxes_of_samples):
                rows = pad_boxes([boxes_of_samples[i] for i in present])
                tensor_type = merged_kwargs["text_kwargs"].get("return_tensors")
                outputs.update(BatchFeature({name: rows}, tensor_type=tensor_type))
        return GromaBatchFeature(outputs.data, skip_tensor_conversion=outputs.skip_tensor_conversion)

    def count_tokens(self, text: str | None = None, num_boxes: int = 0, parse_tokens: bool | None = None) -> int:
        """How many tokens the prompt of a question about an image takes; no image is needed.

        Args:
            text (`str`, *optional*): the question; without it the default one.
            num_boxes (`int`): boxes that the default question is about.
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
        image = True  # any, as nobody looks at it
        if text is None:
            text = default_question(num_boxes)
        elif parse_tokens is False or (parse_tokens is None and self._is_question(text, image)):
            text = self._plain_question(text, {REGION_MARK})
        are_questions = [self._is_question(text, image)]
        texts, is_complete = self._with_same_start(self._wrap_questions([text], are_questions), are_questions)
        replacements = [self.replace_image_token({}, 0)] * count_marks(self.image_token, texts[0])
        expanded, _ = self.get_text_with_replacements(texts, replacements)
        options = {"sanitize_control_tokens": True} if has_breaks(texts) else {}
        return len(
            self.tokenizer(expanded, add_special_tokens=not is_complete, verbose=False, **options)["input_ids"][0]
        )

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

        - `{"type": "region", "box": [x1, y1, x2, y2]}`: a region that the user points at;
        - `{"type": "phrase", "text": "two dogs", "boxes": [[…], […]]}`: text tied to boxes, for training. The text may
          be empty, and so may the boxes (a phrase to locate).

        Boxes are `xyxy` in absolute pixels of the upright image, unless `processor_kwargs` has `box_format` or
        `normalized`.

        Control tokens that are typed in a conversation (`<image>`, `<r5>`, `</s>`, …) are plain text for the model.
        What stays a mark: `[grounding]` at the head of a user's message, `<region>` and `<ground_box>` where
        `processor_kwargs` has their boxes, and in messages of the assistant the markup of its answers (`<p>`, `<roi>`,
        `<r5>`), so that an answer can be part of the history.

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
                    "`sanitize_control_tokens=True` needs `tokenize=True`: a rendered text cannot tell them apart."
                )
            parse_tokens = not sanitize_control_tokens
        if kwargs.get("tokenize"):
            if not parse_tokens:
                conversation, kwargs = self._plain_conversation(conversation, processor_kwargs, template, kwargs)
            # What the template wrote is a whole prompt.
            processor_kwargs["parse_tokens"] = True
        template = with_parts(template, self.image_token, self.tokenizer.special_tokens_map)
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

    def replace_image_token(self, image_inputs: Mapping[str, Any], image_idx: int, **kwargs) -> str:
        """What an `<image>` mark becomes: image tokens, separator and region slots. The same for every image."""
        slots = "".join(f"<r{index}>{self.image_token}" for index in range(self.max_regions))
        return self.image_token * self.num_image_tokens + self.region_separator + slots

    def get_text_with_replacements(
        self,
        text: list[str],
        images_replacements: Sequence[str] = (),
        videos_replacements: Sequence[str] = (),
        audio_replacements: Sequence[str] = (),
    ) -> tuple[list[str], list[list[dict[str, Any]]]]:
        """Expand the `<image>` and `<region>` marks in a batch of texts.

        Args:
            text (`list[str]`): the texts; the list is not changed.
            images_replacements (`Sequence[str]`): what each `<image>` becomes, in order over the batch. Without it
                these marks stay as they are.
            videos_replacements, audio_replacements: not used, Groma takes images only.

        Returns:
            `tuple[list[str], list[list[dict]]]`: the expanded texts and, for each text, one dict for each mark:
            `type` (`"image"` or `"region"`), `span` and `new_span` (offsets of mark and replacement), `text`,
            `replacement`.
        """
        image_iterator = iter(images_replacements)
        # The last token is the placeholder for the feature of the region.
        region_replacement = f"<roi>{REFER_BOX_TOKEN}</roi>{self.image_token}"
        marks = {"region": REGION_MARK}
        if len(images_replacements) > 0:
            marks["image"] = self.image_token
        pattern = re.compile("|".join(f"(?P<{kind}>{mark_pattern(mark)})" for kind, mark in marks.items()))

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

    def next_turn(
        self,
        sequences: torch.Tensor,
        text: str | Sequence[str],
        boxes: Sequence[Any] | np.ndarray | torch.Tensor | None = None,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        box_format: BoxFormat | None = None,
        normalized: bool | None = None,
        parse_tokens: bool = False,
    ) -> BatchFeature:
        """Continue conversations with another question, for `model.generate(**turn, past_key_values=output.past_key_values)`.

        Args:
            sequences (`Tensor` of shape `(B, L)`): `output.sequences`, the conversations so far with their prompts.
            text (`str` or `list[str]`): the next question of each, as in `__call__`; `<region>` marks are of this
                turn.
            boxes (array-like of shape `(n, 4)`, or a list of these or `None`, one per sample, *optional*): regions of
                this turn, in the order of its `<region>` marks; those of earlier turns are not repeated.
            target_sizes (`Sequence[tuple[int, int]]`, *optional*): (height, width) in pixels of the upright image of
                each sample that has one. Needed with `boxes`.
            box_format (`str`, *optional*), normalized (`bool`, *optional*): as in `__call__`.
            parse_tokens (`bool`): whether control tokens in the text are tokens, as in `__call__`.

        Returns:
            `BatchFeature`: `input_ids` and `attention_mask` `(B, L + new)` of the whole conversations and, with boxes,
            `refer_boxes` `(B_img, K, 4)` of this turn only.

        Raises:
            ValueError: if the arguments are wrong or do not fit each other; the message says what to do.

        Example:
        ```python
        output = model.generate(**inputs, max_new_tokens=64, return_dict_in_generate=True)
        turn = processor.next_turn(output.sequences, "And <region>?", boxes=[[10, 10, 90, 80]], target_sizes=[(480, 640)])
        output = model.generate(**turn, past_key_values=output.past_key_values, max_new_tokens=64, return_dict_in_generate=True)
        answer = processor.post_process_grounded_generation(output, turn, target_sizes=[(480, 640)])[0]
        ```
        """
        questions = as_texts(text)
        if len(questions) != len(sequences):
            raise ValueError(
                f"`text` has {len(questions)} questions for {len(sequences)} `sequences`. Pass one for each."
            )
        has_image = ((sequences == self.image_token_id).sum(dim=-1) >= self.num_image_tokens).tolist()
        if boxes is not None and target_sizes is None:
            raise ValueError("`boxes` need `target_sizes`, the (height, width) of each image: they are pixels of it.")
        if target_sizes is not None and len(target_sizes) != sum(has_image):
            raise ValueError(
                f"`target_sizes` must have one (height, width) for each image: got {len(target_sizes)} for "
                f"{sum(has_image)}."
            )
        sizes = iter(target_sizes or [(1, 1)] * sum(has_image))
        sizes = [tuple(int(side) for side in next(sizes)) if image else None for image in has_image]
        refer_boxes = prepare_boxes("boxes", boxes, sizes, box_format or "xyxy", bool(normalized))
        if not parse_tokens:
            questions = [self._plain_question(question, {REGION_MARK}) for question in questions]
        for index, question in enumerate(questions):
            check_marks("boxes", REGION_MARK, question, len(refer_boxes[index]), index)

        pad_token_id, eos_token_id = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        turns, masks = [], []
        for ids, question in zip(sequences, questions):
            # Batches are padded behind the answers that ended first.
            padding = 0
            while padding < len(ids) and ids[-1 - padding] == pad_token_id:
                padding += 1
            padding -= padding > 0 and pad_token_id == eos_token_id
            mask = torch.ones_like(ids) if pad_token_id == eos_token_id else (ids != pad_token_id).long()
            mask[len(ids) - padding :] = 0
            masks.append(mask)
            turns.append(self._turn_ids(question, ids[: len(ids) - padding].tolist()))
        length = max(map(len, turns))
        new_ids = torch.tensor([[pad_token_id or 0] * (length - len(turn)) + turn for turn in turns])
        new_mask = torch.tensor([[0] * (length - len(turn)) + [1] * len(turn) for turn in turns])
        data = {
            "input_ids": torch.cat([sequences, new_ids.to(sequences)], dim=1),
            "attention_mask": torch.cat([torch.stack(masks), new_mask.to(sequences)], dim=1),
        }
        if any(len(boxes_of_sample) > 0 for boxes_of_sample in refer_boxes):
            rows = pad_boxes([rows for rows, image in zip(refer_boxes, has_image) if image])
            data["refer_boxes"] = torch.as_tensor(np.stack(rows), device=sequences.device)
        return GromaBatchFeature(data)

    def _turn_ids(self, question: str, ids: list[int]) -> list[int]:
        """What follows a conversation: the end of its last answer, as far as the model did not say it, and the question."""
        answer = "Yes."
        begin = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": answer}]
        before = self.apply_chat_template(begin)
        after = self.apply_chat_template([*begin, {"role": "user", "content": question}], add_generation_prompt=True)
        if answer not in before or not after.startswith(before):
            raise ValueError(
                "The chat template renders a conversation anew when a turn is added to it, so it cannot be continued "
                "from a "
                "cache. Pass the whole conversation to `apply_chat_template` instead."
            )
        end = before[before.rindex(answer) + len(answer) :]
        (expanded,), _ = self.get_text_with_replacements([end + after[len(before) :]])
        options = {"sanitize_control_tokens": True} if has_breaks([expanded]) else {}
        new = self.tokenizer(expanded, add_special_tokens=False, **options)["input_ids"]
        said = len(self.tokenizer(end, add_special_tokens=False)["input_ids"])
        while said > 0 and ids[len(ids) - said :] != new[:said]:
            said -= 1
        return new[said:]

    def post_process_grounded_generation(
        self,
        output: Any,
        inputs: Mapping[str, Any] | None = None,
        target_sizes: Sequence[tuple[int, int]] | torch.Tensor | None = None,
        skip_special_tokens: bool = True,
    ) -> list[GroundedText]:
        """Read generated answers and tie their phrases to boxes.

        Args:
            output (`ModelOutput`): what `model.generate(**inputs, return_dict_in_generate=True)` returned. Used are
                `sequences` `(B * n, L)` and, for the `B_img` samples with an image, `region_boxes` `(B_img, R, 4)`
                normalized `cxcywh`, `region_scores` `(B_img, R)` and `region_mask` `(B_img, R)`.
            inputs (`Mapping`, *optional*): the inputs of `generate`. Needed if `sequences` start with the prompt (they
                do, except after `generate(inputs_embeds=…)`), or if some samples have no image. Their `refer_boxes`
                say which regions are those of the user.
            target_sizes (`Sequence[tuple[int, int]]`, *optional*): (height, width) in pixels of each of the `B_img`
                upright images. Without it boxes stay fractions (0..1) of the image size.
            skip_special_tokens (`bool`): whether to leave out padding, BOS and EOS. Grounding stays in either way.

        Returns:
            `list[GroundedText]`: one for each sequence, boxes `xyxy`. Sequence `i` answers sample `i // n`.

        Raises:
            ValueError: if `output` is bare ids, or if the arguments do not fit each other.

        Example:
        ```python
        output = model.generate(**inputs, max_new_tokens=256, return_dict_in_generate=True)
        answer = processor.post_process_grounded_generation(output, inputs, target_sizes=[(height, width)])[0]
        print(answer.text, answer.phrases[0].boxes)
        ```
        """
        if isinstance(output, (torch.Tensor, np.ndarray, list)):
            raise ValueError(
                f"`output` is a {type(output).__name__} of ids and has no boxes. Call "
                "`model.generate(…, return_dict_in_generate=True)` and pass its result."
            )
        sequences = output.sequences
        boxes = torch.zeros(0, 0, 4)
        if output.region_boxes is not None:
            boxes = exact_boxes(output.region_boxes, "output.region_boxes").detach().cpu()
        if target_sizes is not None and len(target_sizes) != len(boxes):
            raise ValueError(
                f"`target_sizes` must have one (height, width) for each image: got {len(target_sizes)} for "
                f"{len(boxes)}."
            )
        if inputs is not None and "input_ids" in inputs:
            prompts = torch.as_tensor(inputs["input_ids"], device=sequences.device)
            has_image = (prompts == self.image_token_id).any(dim=-1).tolist()
        else:
            prompts = None
            has_image = [True] * len(boxes) or [False] * len(sequences)
        if sum(has_image) != len(boxes) or len(sequences) % len(has_image) != 0:
            raise ValueError(
                f"`inputs` and `output` do not belong together: {len(sequences)} sequences and {len(boxes)} rows of "
                f"`region_boxes` for {len(has_image)} samples, {sum(has_image)} of them with an image."
            )
        per_sample = len(sequences) // len(has_image)
        if prompts is not None:
            sequences = self._without_prompts(sequences, prompts.repeat_interleave(per_sample, dim=0))
        if ((sequences == self.image_token_id).sum(dim=-1) >= self.num_image_tokens).any():
            raise ValueError("`output.sequences` hold the prompt. Pass the inputs of `generate` as `inputs`.")

        # The k-th box of the user is region k. Rows of zeros pad.
        user_boxes = [0] * len(boxes)
        if inputs is not None and inputs.get("refer_boxes") is not None and len(boxes) > 0:
            user_boxes = torch.as_tensor(inputs["refer_boxes"]).any(dim=-1).sum(dim=-1).tolist()
        boxes = box_cxcywh_to_xyxy(boxes).clamp(0, 1)
        image_index = np.cumsum(has_image) - 1
        answers = []
        for row, ids in enumerate(sequences):
            markup = self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
            sample = row // per_sample
            if not has_image[sample]:
                answers.append(ground_text(markup, torch.zeros(0, 4)))
                continue
            image = int(image_index[sample])
            regions = boxes[image]
            if target_sizes is not None:
                height, width = (int(side) for side in target_sizes[image])
                regions = scale_boxes(regions, height, width)
            mask = output.region_mask[image]
            answers.append(ground_text(markup, regions, output.region_scores[image], mask, range(user_boxes[image])))
        return answers

    def post_process_region_proposals(
        self, proposals: Any, target_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Regions]:
        """The regions that `model.propose_regions` found, in pixels.

        Args:
            proposals (`GromaRegionProposals`): for B images.
            target_sizes (`Sequence[tuple[int, int]]`, *optional*): (height, width) in pixels of each upright image.
                Without it boxes stay fractions (0..1) of the image size.

        Returns:
            `list[Regions]`: those of each image, best first; their numbers are those of the slots.

        Raises:
            ValueError: if `target_sizes` has not one entry for each image.

        Example:
        ```python
        proposals = model.propose_regions(inputs["pixel_values"])
        regions = processor.post_process_region_proposals(proposals, target_sizes=[(height, width)])[0]
        print(regions.xyxy, regions.scores)
        ```
        """
        return regions_of_slots(proposals.boxes, proposals.scores, proposals.mask, target_sizes)

    @staticmethod
    def _without_prompts(sequences: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """The generated part of `sequences` `(N, L)`, whether or not they start with `prompts` `(N, P)`."""
        return (
            sequences[:, prompts.shape[1] :] if torch.equal(sequences[:, : prompts.shape[1]], prompts) else sequences
        )

    def _get_num_multimodal_tokens(
        self, image_sizes: Sequence[Sequence[int]] | None = None, **kwargs
    ) -> MultiModalData:
        """How many placeholders images of the given (height, width) take, `<region>` marks not counted."""
        if image_sizes is None:
            return MultiModalData()
        return MultiModalData(
            num_image_tokens=[self.num_image_tokens + self.max_regions] * len(image_sizes),
            num_image_patches=[1] * len(image_sizes),
        )

    def _assign_images(self, images: Any, texts: list[str] | None) -> list[Any]:
        """Find out which image belongs to which text, and open it: one upright image or `None` per sample."""
        if images is None:
            if texts is None:
                raise ValueError("Neither `images` nor `text` was given. Pass an image, a text or both.")
            return [None] * len(texts)
        groups, is_nested = group_images(images)
        flat = [image for group in groups for image in group]
        if texts is None:
            if empty := [index for index, group in enumerate(groups) if not group]:
                raise ValueError(
                    f"Sample {empty[0]} has neither an image nor a text. Pass `text` or leave the sample out."
                )
            texts = [""] * len(groups)
        if not texts:
            raise ValueError("`images` is an empty list and there is no `text`. Pass at least one image.")
        marks = [count_marks(self.image_token, text) for text in texts]
        one_each = len(groups) == len(texts)
        if sum(marks) == len(flat) and not (is_nested and one_each):
            # Finished prompts say themselves which image is theirs, as for all processors of the library.
            iterator = iter(flat)
            groups = [[next(iterator) for _ in range(count)] for count in marks]
        elif not one_each and sum(marks) == 0 and len(texts) == 1:
            groups = [flat]
        elif not one_each and sum(marks) == 0:
            raise ValueError(
                f"`images` has {len(groups)} entries for {len(texts)} texts. Pass one for each text, and None or [] "
                f"for a "
                "text without an image."
            )
        elif not one_each:
            groups = None
        for index, group in enumerate(groups or []):
            if len(group) > 1:
                raise ValueError(
                    f"Sample {index} has {len(group)} `images`, but Groma takes one image per sample. Make one sample "
                    f"of "
                    "each image."
                )
        if groups is None or any(count > 0 and count != len(group) for count, group in zip(marks, groups)):
            # The library's own words.
            raise ValueError(
                f"The total number of {self.image_token} tokens in the prompts should be the same as the number of "
                f"images "
                f"passed. Found total {sum(marks)} {self.image_token} tokens and {len(flat)} images."
            )
        return [
            read_upright(group[0], f"`images` of sample {index}") if group else None
            for index, group in enumerate(groups)
        ]

    def _is_question(self, text: str, image: Any) -> bool:
        """Whether a text is a question about an image, and not a prompt that says where the image is."""
        return image is not None and count_marks(self.image_token, text) == 0

    def _plain_question(self, question: str, marks: Collection[str]) -> str:
        """A question whose control tokens are text, but for its marks."""
        template = self._resolve_chat_template(None) if self.chat_template else None
        tokens = control_tokens(self.tokenizer, template)
        return break_control_tokens([question], tokens, self.tokenizer, marks, keep_first=GROUNDING_TOKEN)[0]

    def _plain_conversation(
        self, conversation: Any, processor_kwargs: Mapping[str, Any], chat_template: str, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """A conversation, and the other variables of its template, whose control tokens are text, but for its marks."""
        tokens = control_tokens(self.tokenizer, chat_template)
        marks = {REGION_MARK} if processor_kwargs.get("boxes") is not None else set()
        marks |= {GROUND_BOX_TOKEN} if processor_kwargs.get("ground_boxes") is not None else set()
        proxies = {f"<r{index}>" for index in range(self.max_regions)}
        answer_marks = {*marks, *proxies, PHRASE_START, PHRASE_END, REGION_START, REGION_END}
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

    def _offsets_of_broken_texts(self, texts: list[str], attention_mask: Any) -> list[list[tuple[int, int]]]:
        """Where tokens stand in the expanded prompts, which the library does not tell of texts with breaks."""
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

    def _find_answers(self, conversation: Any, template: str, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Conversations with their text, cut at the answers, for `PIECES_TEMPLATE`, and the arguments that are still to be used."""
        known = inspect.signature(ProcessorMixin.apply_chat_template).parameters
        for_template = {name: value for name, value in kwargs.items() if name not in known and name in template}
        rendering = {**for_template, **{name: kwargs.get(name) for name in ("tools", "documents")}}

        def render(messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> str:
            return super(GromaProcessor, self).apply_chat_template(
                list(messages), chat_template=template, add_generation_prompt=add_generation_prompt, **rendering
            )

        conversations, is_batched = self._normalize_conversations(conversation)
        for messages in conversations:
            pieces = split_answers(messages, render, kwargs.get("add_generation_prompt", False))
            messages[0]["groma_pieces"] = [piece._asdict() for piece in pieces]
        return (
            conversations if is_batched else conversations[0],
            {name: value for name, value in kwargs.items() if name not in for_template},
        )

    def _wrap_questions(self, texts: list[str], are_questions: list[bool]) -> list[str]:
        """Put the texts that are plain questions about an image into the chat template."""
        plain = [index for index, is_question in enumerate(are_questions) if is_question]
        if not plain:
            return texts
        if self.chat_template is None:
            raise ValueError(
                f"`text` {without_breaks(texts[plain[0]])!r} is a plain question, but the processor has no chat "
                f"template to put it into. "
                f"Set `processor.chat_template` (to `GROMA_CHAT_TEMPLATE`, for instance) or write the whole prompt "
                f"with "
                f"an {self.image_token} in it."
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
        """Make sure that every text gets the BOS token that it needs; also return whether all of them are written in the texts now.

        A question was put into the chat template and is complete: it begins as the language model's format wants it.
        """
        bos_token = self.tokenizer.bos_token
        complete = [
            is_question or (bos_token is not None and text.startswith(bos_token))
            for text, is_question in zip(texts, are_questions)
        ]
        # Texts with breaks are encoded in pieces, of which none gets a BOS token of its own.
        if not (has_breaks(texts) or any(complete)):
            return texts, False
        if bos_token is not None and self.tokenizer("")["input_ids"][:1] == [self.tokenizer.bos_token_id]:
            texts = [text if is_done else bos_token + text for text, is_done in zip(texts, complete)]
        return texts, True

    def _normalize_conversations(self, conversation: Any) -> tuple[list, bool]:
        """Also bring the boxes of parts to lists, because templates see arrays and tensors as strings only."""
        conversations, is_batched = super()._normalize_conversations(conversation)
        for messages in conversations:
            for message in messages:
                if isinstance(message.get("content"), (list, tuple)):
                    message["content"] = [plain_part(part) for part in message["content"]]
                    for part in message["content"]:
                        if isinstance(part, Mapping):
                            refuse_other_media({str(part.get("type")): part}, "message part")
        return conversations, is_batched

    def _multimodal_inputs_from_conversations(
        self,
        conversations: list[list[dict[str, Any]]],
        audio_loading_params: dict[str, Any],
        load_audio_from_video: bool = False,
    ):
        """Also collect the boxes of region and phrase parts, in the order of their marks in the rendered text."""
        images, videos, audio, additional_inputs = super()._multimodal_inputs_from_conversations(
            conversations, audio_loading_params, load_audio_from_video
        )
        boxes: list[list] = [[] for _ in conversations]
        ground_boxes: list[list] = [[] for _ in conversations]
        for index, messages in enumerate(conversations):
            for message in messages:
                content = message.get("content") or []
                for part in [] if isinstance(content, str) else content:
                    if part["type"] == "region":
                        if "box" not in part:
                            raise ValueError(
                                f"A region part needs a `box`: {{'type': 'region', 'box': […]}}, got {part}."
                            )
                        boxes[index].append(part["box"])
                    elif part["type"] == "phrase":
                        ground_boxes[index].extend(part.get("boxes", []))
        # Only when there are some: boxes can also come in `processor_kwargs`, for `<region>` marks in text parts.
        if any(boxes):
            additional_inputs["boxes"] = boxes
        if any(ground_boxes):
            additional_inputs["ground_boxes"] = ground_boxes
        return images, videos, audio, additional_inputs


def default_question(num_boxes: int) -> str:
    """What is asked about an image and `num_boxes` boxes where there is no text."""
    if num_boxes == 0:
        return DEFAULT_IMAGE_PROMPT
    return DEFAULT_REGION_PROMPT.format(regions=", ".join([REGION_MARK] * num_boxes))


__all__ = ["GromaProcessor"]
