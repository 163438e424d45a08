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

What all families do with images, text and regions is in `processing_grounded.py` and `processing_chat.py`; answers are
in `processing_groma_answers.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import MultiModalData, ProcessingKwargs, Unpack

from ...boxes import BoxFormat
from ...markup import (
    GROUND_BOX_TOKEN,
    IMAGE_TOKEN,
    PHRASE_END,
    PHRASE_START,
    REFER_BOX_TOKEN,
    REGION_END,
    REGION_START,
    proxy_token,
)
from ...questions import GROMA_QUESTIONS
from ..processing_grounded import AnswerBoxes, GroundingProcessor
from ..processing_regions import ReferredRegions
from .chat_template_groma import GROMA_CHAT_TEMPLATE, GROMA_PARTS
from .processing_groma_answers import GromaAnswers
from .tokenization_groma import groma_tokens


class GromaProcessor(GromaAnswers, GroundingProcessor):
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
    parts_as_text = GROMA_PARTS
    learns_boxes = True

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
        return self._prepare(
            *(images, text, boxes, regions, box_format, normalized, parse_tokens, kwargs),
            answer_boxes=AnswerBoxes("ground_boxes", GROUND_BOX_TOKEN, ground_boxes),
        )

    @property
    def answer_tokens(self) -> set[str]:
        """The markup of answers, which stays in messages of the assistant."""
        proxies = {proxy_token(index) for index in range(self.max_regions)}
        return {*proxies, PHRASE_START, PHRASE_END, REGION_START, REGION_END}

    def replace_image_token(self, image_inputs: Mapping[str, Any], image_idx: int, **kwargs) -> str:
        """The replacement of an `<image>` mark: image tokens, separator and region slots. The same for every image."""
        slots = "".join(proxy_token(index) + self.image_token for index in range(self.max_regions))
        return self.image_token * self.num_image_tokens + self.region_separator + slots

    def _region_replacement(self) -> str:
        # "What is <region>?" becomes "What is <roi><refer_box></roi><image>?". The last token is the placeholder for
        # the feature of the region.
        return f"{REGION_START}{REFER_BOX_TOKEN}{REGION_END}{self.image_token}"

    def _check_regions(self, referred: ReferredRegions, answer_boxes: Sequence[torch.Tensor]) -> None:
        """Refuse more regions than there are slots."""
        for index, count in enumerate(len(a) + len(b) for a, b in zip(referred.boxes, answer_boxes)):
            if count > self.max_regions:
                raise ValueError(
                    f"Sample {index} has {count} `{referred.name}` (and `ground_boxes`), but `max_regions` is "
                    f"{self.max_regions}. Split them over several samples."
                )

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


__all__ = ["GromaProcessor"]
