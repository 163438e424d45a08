"""Groma's processor: images, text and boxes to model inputs, and generated ids to grounded text.

Marks in text, and what they become. The question "What is <region>?" about an image and one box, in Groma's chat
template, reads

    … Image: <image>. … USER: What is <region>? ASSISTANT:

With 2 image tokens and 3 region slots (a Groma-7B has 256 and 100) the language model gets

    … Image: <image><image>. Regions: <r0><image><r1><image><r2><image>. … What is <roi><refer_box></roi><image>? …
             │ the image  │           │ slot 0  ││ slot 1  ││ slot 2  │           │ the region of the user   │

- `<image>` marks the image. It becomes the image tokens and the region slots. A slot is a proxy token (`<r0>`,
  `<r1>`, …) and a place for the feature of the region that the model puts into the slot.
- `<region>` marks a region that the user points at, the k-th mark for the k-th region of the sample. It becomes
  `<roi><refer_box></roi><image>`; the model replaces `<refer_box>` by the proxy token of that box's slot, and repeats
  the feature of the region behind it.
- `<ground_box>` marks a region in a training answer, the k-th mark for the k-th ground-truth box. The model
  replaces it by the proxy token of the slot that the box got.

The placeholder token `<image>` is one and the same for image patches, region slots and the features of the regions
that the user points at: the model fills in all visual features in the order of the placeholders. Every prompt has all
`max_regions` slots, so that shapes are static; the model turns off the slots that stay empty.

Conversations are in `processing_groma_chat.py`, answers in `processing_groma_answers.py`; what callers pass is checked
in `processing_inputs.py`, and control tokens that a user typed are made plain text by `control_tokens.py`.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import MultiModalData, ProcessingKwargs, Unpack

from ...boxes import BoxFormat
from ...control_tokens import break_control_tokens, control_tokens, has_breaks, piecewise_offsets, without_breaks
from ...image_inputs import ImageSize, image_size
from ...markup import (
    GROUND_BOX_TOKEN,
    GROUNDING_TOKEN,
    IMAGE_TOKEN,
    REFER_BOX_TOKEN,
    REGION_END,
    REGION_MARK,
    REGION_START,
    proxy_token,
)
from ...questions import GROMA_QUESTIONS
from ..processing_inputs import (
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
from ..processing_regions import referred_regions
from .chat_template_groma import GROMA_CHAT_TEMPLATE
from .processing_groma_answers import GromaAnswers
from .processing_groma_chat import GromaConversations
from .tokenization_groma import groma_tokens


class GromaProcessor(GromaAnswers, GromaConversations):
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

    question_wording = GROMA_QUESTIONS

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
        regions: Sequence[Any] | np.ndarray | torch.Tensor | None = None,
        **kwargs: Unpack[ProcessingKwargs],
    ) -> BatchFeature:
        """Prepare one sample or a batch.

        Args:
            images: one image, a list with one image (or `None`) per sample, or a nested list like `[[image], []]`. An
                image is a PIL image, array, tensor, path, URL or base64 text. PIL images and files are turned upright.
                For images that the model has seen already, each an `ImageSize`: the result has no `pixel_values`, and
                `generate` takes `mm_encoder_outputs` instead.
            text (`str` or `list[str]`, *optional*): one text per sample. For a sample with an image, a text without
                `<image>` is a question, which is put into the chat template; a text with `<image>` is a finished
                prompt. Without text the model is asked to describe each region or, where there are none, the
                image: `question_wording.default`.
            boxes (array-like of shape `(n, 4)`, or a list of these or `None`, one per sample, *optional*): regions
                that the user points at, in the order of the `<region>` marks in the text. Absolute pixels of the
                upright image as given, before any resizing.
            box_format (`str`, *optional*): `"xyxy"` (default), `"xywh"` or `"cxcywh"`, of all boxes.
            normalized (`bool`, *optional*): whether boxes and points are fractions of the image size, not pixels.
            ground_boxes (as `boxes`, *optional*): for training, regions of the answers, in the order of
                `<ground_box>`.
            parse_tokens (`bool`, *optional*): whether control tokens in the texts (`<image>`, `<p>`, `<r5>`, `</s>`,
                …) are tokens, for those who write whole prompts, or plain text, for questions of people. By default a
                question (a text without `<image>` for a sample with an image) is plain text and everything else is a
                prompt; with `False` every text is a question. Marks in a question are always `<region>`, one for each
                box, `[grounding]` at its head and, with `ground_boxes`, `<ground_box>`.
            regions (a list, or a list of these or `None`, one per sample, *optional*): in place of `boxes`, regions in
                any form that [`read_region`] takes: boxes, masks, `Regions`, and dicts such as `{"point": [x, y]}`,
                `{"points": …, "labels": …}`, `{"scribble": …}` and `{"mask": …}`. For a mask the model gets the box
                around it.
            **kwargs: as for every processor: `return_tensors`, `padding`, …

        Returns:
            `BatchFeature`: `input_ids` and `attention_mask` `(B, L)`, and, where there are images, `pixel_values`
            `(B_img, 3, height, width)`. If there are boxes, `refer_boxes` and `ground_boxes` `(B_img, K, 4)` float32,
            normalized `cxcywh`, filled up with rows of zeros. If a region has points, also `refer_points`
            `(B_img, K, P, 2)` float32, normalized `(x, y)`, `refer_point_labels` `(B_img, K, P)`, 1 on the region, 0
            not on it and -1 where there is none, and `refer_ambiguity` `(B_img, K)`, the place in `AMBIGUITIES` or -1;
            its row of `refer_boxes` is the pixel of its first point on it. Rows of all but the first two are the
            samples that have an image, in order. `to` does not cast boxes and points.

        Raises:
            ValueError: if the arguments are wrong or do not fit each other; the message says what to do.
        """
        refuse_other_media(kwargs, "argument")
        merged_kwargs = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        channels = merged_kwargs["images_kwargs"].get("input_data_format")

        # What was passed: texts, images and boxes of each sample.
        texts = as_texts(text)
        marks = {REGION_MARK} if ground_boxes is None else {REGION_MARK, GROUND_BOX_TOKEN}
        if texts is not None and parse_tokens is False:
            texts = [self._plain_question(question, marks) for question in texts]
        images_of_samples = assign_images(images, texts, self.image_token)
        sizes = [
            None if image is None else image_size(image, f"`images` of sample {index}", channels)
            for index, image in enumerate(images_of_samples)
        ]
        format_and_sizes = (sizes, box_format or "xyxy", bool(normalized))
        referred = referred_regions(boxes, regions, *format_and_sizes)
        answer_boxes = prepare_boxes("ground_boxes", ground_boxes, *format_and_sizes)
        for index, count in enumerate(len(a) + len(b) for a, b in zip(referred.boxes, answer_boxes)):
            if count > self.max_regions:
                raise ValueError(
                    f"Sample {index} has {count} `{referred.name}` (and `ground_boxes`), but `max_regions` is "
                    f"{self.max_regions}. Split them over several samples."
                )

        # The prompts: questions in the chat template, what users typed as plain text.
        if texts is None:
            texts = [self.question_wording.default(len(boxes_of_sample)) for boxes_of_sample in referred.boxes]
        elif parse_tokens is None:
            texts = [
                self._plain_question(text, marks) if self._is_question(text, image) else text
                for text, image in zip(texts, images_of_samples)
            ]
        for name, mark, boxes_of_samples in (
            (referred.name, REGION_MARK, referred.boxes),
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
        if any(len(boxes_of_sample) > 0 for boxes_of_sample in answer_boxes):
            rows["ground_boxes"] = pad_boxes([answer_boxes[i] for i in present])
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
        image = True  # any value: it is not looked at
        if text is None:
            text = self.question_wording.default(num_boxes)
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

    def replace_image_token(self, image_inputs: Mapping[str, Any], image_idx: int, **kwargs) -> str:
        """The replacement of an `<image>` mark: image tokens, separator and region slots. The same for every image."""
        slots = "".join(proxy_token(index) + self.image_token for index in range(self.max_regions))
        return self.image_token * self.num_image_tokens + self.region_separator + slots

    def get_text_with_replacements(
        self,
        text: list[str],
        images_replacements: Sequence[str] = (),
        videos_replacements: Sequence[str] = (),
        audio_replacements: Sequence[str] = (),
    ) -> tuple[list[str], list[list[dict[str, Any]]]]:
        """Expand the `<image>` and `<region>` marks in a batch of texts, see the head of this file.

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
        # "What is <region>?" becomes "What is <roi><refer_box></roi><image>?". The last token is the placeholder for
        # the feature of the region.
        region_replacement = f"{REGION_START}{REFER_BOX_TOKEN}{REGION_END}{self.image_token}"
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

    def _get_num_multimodal_tokens(
        self, image_sizes: Sequence[Sequence[int]] | None = None, **kwargs
    ) -> MultiModalData:
        """How many placeholders images of the given (height, width) take, without `<region>` marks."""
        if image_sizes is None:
            return MultiModalData()
        return MultiModalData(
            num_image_tokens=[self.num_image_tokens + self.max_regions] * len(image_sizes),
            num_image_patches=[1] * len(image_sizes),
        )

    def _is_question(self, text: str, image: Any) -> bool:
        """Whether a text is a question about an image, and not a prompt that says where the image is."""
        return image is not None and count_marks(self.image_token, text) == 0

    def _plain_question(self, question: str, marks: Collection[str]) -> str:
        """Make a question's control tokens plain text, except its marks."""
        template = self._resolve_chat_template(None) if self.chat_template else None
        tokens = control_tokens(self.tokenizer, template)
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
                "template to put it into. Set `processor.chat_template` (to `GROMA_CHAT_TEMPLATE`, for instance) or "
                f"write the whole prompt with an {self.image_token} in it."
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
            texts = [text if is_done else bos_token + text for text, is_done in zip(texts, complete)]
        return texts, True


__all__ = ["GromaProcessor"]
