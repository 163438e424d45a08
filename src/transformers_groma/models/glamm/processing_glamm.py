"""GLaMM's processor: images, text and boxes to model inputs, and generated ids to text tied to masks.

Marks in text, and what they become. The question "What is <region>?" about an image and one box, in GLaMM's chat
template, reads

    … USER: The <im_start><image><im_end> provides an overview of the picture.
    What is <region>? ASSISTANT:

- `<image>` marks the image. It becomes one placeholder for each of its features, between `<im_start>` and `<im_end>`
  (which are added where they are left out). The placeholder is a token of the vocabulary: `<image>` in new models, one
  that nothing else uses in the released checkpoints, whose vocabulary has no `<image>`.
- `<region>` marks a region that the user points at, the k-th mark for the k-th region of the sample. It becomes
  `<bbox>`, which the model replaces by the feature of the region. A finished prompt may say `<bbox>` itself.
- `[grounding]` at the head of a question asks for an answer whose phrases are tied to masks, in the original's words.

What all families do with images, text and regions is in `processing_grounded.py` and `processing_chat.py`; answers are
in `processing_glamm_answers.py`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import MultiModalData, ProcessingKwargs, Unpack

from ...boxes import BoxFormat
from ...markup import (
    IMAGE_END,
    IMAGE_START,
    IMAGE_TOKEN,
    PHRASE_END,
    PHRASE_START,
    REGION_MARK,
    REGION_TOKEN,
    SEGMENT_TOKEN,
)
from ...questions import GLAMM_QUESTIONS
from ..processing_grounded import GroundingProcessor
from ..processing_inputs import mark_pattern
from .chat_template_glamm import GLAMM_CHAT_TEMPLATE, GLAMM_PARTS, with_grounding_request
from .processing_glamm_answers import GlammAnswers
from .tokenization_glamm import GLAMM_TOKENS


class GlammProcessor(GlammAnswers, GroundingProcessor):
    """Prepares images, text and boxes for GLaMM, and reads what it generates.

    Args:
        image_processor (`GlammImageProcessor`): the image processor.
        tokenizer (`PreTrainedTokenizerBase`): a tokenizer that has the tokens of GLaMM, see [`add_glamm_tokens`].
        chat_template (`str` or `dict[str, str]`, *optional*): any Jinja template for conversations, or several by
            name. By default the tokenizer's own, or `GLAMM_CHAT_TEMPLATE` where it has none. Templates need not know
            of images and regions: messages made of parts become text with marks before the template sees them.
        num_image_tokens (`int`): placeholders for one image.
        image_token (`str`): the placeholder. In text `<image>` stands for it, whatever it is.

    Raises:
        ValueError: if the tokenizer lacks tokens.

    Example:
    >>> from PIL import Image
    >>> from transformers import LlamaTokenizer
    >>> from transformers_groma.models.glamm.image_processing_glamm import GlammImageProcessor
    >>> from transformers_groma.models.glamm.tokenization_glamm import add_glamm_tokens
    >>> tokenizer = LlamaTokenizer()
    >>> _ = add_glamm_tokens(tokenizer)
    >>> processor = GlammProcessor(GlammImageProcessor(), tokenizer)
    >>> image = Image.new("RGB", (640, 480))
    >>> inputs = processor(images=image, text="What is <region>?", boxes=[[0, 0, 320, 240]], return_tensors="pt")
    >>> inputs["refer_boxes"].tolist(), inputs["grounding_sizes"].tolist()
    ([[[0.25, 0.25, 0.5, 0.5]]], [[768, 1024]])
    """

    question_wording = GLAMM_QUESTIONS
    parts_as_text = GLAMM_PARTS
    learns_boxes = False

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        chat_template: str | dict[str, str] | None = None,
        num_image_tokens: int = 576,
        image_token: str = IMAGE_TOKEN,
    ):
        if chat_template is None:
            chat_template = getattr(tokenizer, "chat_template", None) or GLAMM_CHAT_TEMPLATE
            if chat_template == GLAMM_CHAT_TEMPLATE:
                chat_template = chat_template.replace(IMAGE_TOKEN, image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.num_image_tokens = num_image_tokens
        self.image_token = image_token
        vocabulary = tokenizer.get_vocab()
        if missing := [token for token in (*GLAMM_TOKENS, image_token) if token not in vocabulary]:
            raise ValueError(
                f"`tokenizer` lacks {len(missing)} tokens of GLaMM, among them {missing[0]!r}. Call "
                "`add_glamm_tokens(tokenizer)` and resize the model's embeddings, or pass as `image_token` the one "
                "that the model was trained with."
            )
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)

    def __call__(
        self,
        images: ImageInput | Sequence[Any] | None = None,
        text: str | Sequence[str] | None = None,
        boxes: Sequence[Any] | np.ndarray | torch.Tensor | None = None,
        box_format: BoxFormat | None = None,
        normalized: bool | None = None,
        parse_tokens: bool | None = None,
        regions: Sequence[Any] | np.ndarray | torch.Tensor | None = None,
        **kwargs: Unpack[ProcessingKwargs],
    ) -> BatchFeature:
        """Prepare one sample or a batch.

        Args:
            images: one image, a list with one image (or `None`) per sample, or a nested list like `[[image], []]`. An
                image is a PIL image, array, tensor, path, URL or base64 text. PIL images and files are turned upright.
                For images that the model has seen already, each an `ImageSize`: the result has no pixels, and
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
            parse_tokens (`bool`, *optional*): whether control tokens in the texts (`<image>`, `<p>`, `[SEG]`, `</s>`,
                …) are tokens, for those who write whole prompts, or plain text, for questions of people. By default a
                question (a text without `<image>` for a sample with an image) is plain text and everything else is a
                prompt; with `False` every text is a question. Marks in a question are always `<region>`, one for each
                box, and `[grounding]` at its head.
            regions (a list, or a list of these or `None`, one per sample, *optional*): in place of `boxes`, regions in
                any form that [`read_region`] takes: boxes, masks, `Regions`, and dicts such as `{"point": [x, y]}`,
                `{"points": …, "labels": …}`, `{"scribble": …}` and `{"mask": …}`. For a mask the model gets the box
                around it.
            **kwargs: as for every processor: `return_tensors`, `padding`, …

        Returns:
            `BatchFeature`: `input_ids` and `attention_mask` `(B, L)`, and, where there are images, `pixel_values`
            `(B_img, 3, height, width)`, `grounding_pixel_values` `(B_img, 3, side, side)` and `grounding_sizes`
            `(B_img, 2)`, int64, the height and width that the image takes of it. If there are boxes, `refer_boxes`
            `(B_img, K, 4)` float32, normalized `cxcywh` of the whole upright image, filled up with rows of zeros. If a
            region has points, also `refer_points` `(B_img, K, P, 2)` float32, normalized `(x, y)`,
            `refer_point_labels` `(B_img, K, P)`, 1 on the region, 0 not on it and -1 where there is none, and
            `refer_ambiguity` `(B_img, K)`, the place in `AMBIGUITIES` or -1; its row of `refer_boxes` is the pixel of
            its first point on it. Rows of all but the first two are the samples that have an image, in order. `to`
            does not cast boxes and points.

        Raises:
            ValueError: if the arguments are wrong or do not fit each other; the message says what to do.
        """
        if kwargs.pop("ground_boxes", None) is not None:
            raise ValueError(
                "`ground_boxes` is not an input of GLaMM, which learns masks: write `[SEG]` for each region of an "
                "answer and pass its mask to the model as `mask_labels`."
            )
        return self._prepare(images, text, boxes, regions, box_format, normalized, parse_tokens, kwargs)

    @property
    def answer_tokens(self) -> set[str]:
        """The markup of answers, which stays in messages of the assistant."""
        return {PHRASE_START, PHRASE_END, SEGMENT_TOKEN}

    @property
    def image_mark(self) -> str:
        """How callers write the mark of an image in a prompt, whatever the placeholder is."""
        return IMAGE_TOKEN

    def replace_image_token(self, image_inputs: Mapping[str, Any], image_idx: int, **kwargs) -> str:
        """The replacement of an `<image>` mark, the same for every image."""
        return f"{IMAGE_START}{self.image_token * self.num_image_tokens}{IMAGE_END}"

    def _image_pattern(self) -> str:
        # With what stands around the image already.
        start, end = re.escape(IMAGE_START), re.escape(IMAGE_END)
        return rf"(?:{start}\s*)?{mark_pattern(self.image_token)}(?:\s*{end})?"

    def _region_replacement(self) -> str:
        return REGION_TOKEN

    def _with_image_mark(self, text: str) -> str:
        return re.sub(mark_pattern(IMAGE_TOKEN), lambda _: self.image_token, text)

    def _with_region_marks(self, text: str) -> str:
        return re.sub(mark_pattern(REGION_TOKEN), REGION_MARK, text)

    def _points_at(self, message: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
        # A region in an answer is a `[SEG]`.
        return part.get("type") == "region" and message.get("role") != "assistant"

    def _with_requests(self, conversation: Any) -> Any:
        conversations, is_batched = self._normalize_conversations(conversation)
        for messages in conversations:
            for message in messages:
                if message.get("role") == "user" and message.get("content"):
                    message["content"] = with_grounding_request(message["content"])
        return conversations if is_batched else conversations[0]

    def _get_num_multimodal_tokens(
        self, image_sizes: Sequence[Sequence[int]] | None = None, **kwargs
    ) -> MultiModalData:
        """How many placeholders images of the given (height, width) take."""
        if image_sizes is None:
            return MultiModalData()
        return MultiModalData(
            num_image_tokens=[self.num_image_tokens] * len(image_sizes), num_image_patches=[1] * len(image_sizes)
        )


__all__ = ["GlammProcessor"]
