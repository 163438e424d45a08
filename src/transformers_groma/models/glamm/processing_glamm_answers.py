"""Reads what GLaMM generated and decoded: phrases tied to masks in pixels.

The model writes ids such as those of

    <p> Two dogs </p> [SEG] on <p> the grass </p> [SEG].

and the mask decoder makes a mask of each `[SEG]`, in order. What the markup says is read by
[`ground_segmented_text`]; here ids become markup, and the masks find the sequences that they belong to.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ...boxes import boxes_in_pixels
from ...exact_boxes import exact_boxes
from ...grounded_markup import SEGMENT_TAG
from ...grounding import GroundedText, ground_segmented_text
from ...markup import PHRASE_END, PHRASE_START, SEGMENT_TOKEN
from ...masks import masks_to_boxes
from ...padded_squares import masks_in_square
from ...regions import Regions
from ..processing_answers import boxes_of_user, match_answers, refuse_ids, regions_of_masks, slots_of_boxes


class GlammAnswers:
    """What [`GlammProcessor`] does with the outputs of a model."""

    tokenizer: PreTrainedTokenizerBase
    image_processor: Any
    image_token_id: int
    num_image_tokens: int

    def ground_answer(
        self,
        markup: str,
        region_boxes: torch.Tensor,
        region_scores: torch.Tensor | None = None,
        user_region_ids: Sequence[int] = (),
        ids: Sequence[int] | None = None,
    ) -> GroundedText:
        """Read the markup of one answer, also of one that is still being written.

        Args:
            markup (`str`): what the model wrote, without the tokenizer's special tokens.
            region_boxes (`Tensor` of shape `(R, 4)`): `xyxy` boxes, in absolute pixels of the upright image, of the
                regions that the user pointed at, and after them of the `[SEG]`, as far as they are known.
            region_scores (`Tensor` of shape `(R,)`, *optional*): their scores; all 1 without it.
            user_region_ids (`Sequence[int]`): which of them the user pointed at, in the order of the question.
            ids (`Sequence[int]`, *optional*): the tokens of the markup. Without them all that reads like a tag is one.

        Returns:
            `GroundedText`: see [`ground_segmented_text`].
        """
        tags = None if ids is None else self._tags_of_tokens(ids, markup, True)
        return ground_segmented_text(
            markup, region_boxes, region_scores, user_region_ids=tuple(user_region_ids), tags=tags
        )

    def post_process_grounded_generation(
        self,
        output: Any,
        inputs: Mapping[str, Any] | None = None,
        target_sizes: Sequence[tuple[int, int]] | torch.Tensor | None = None,
        skip_special_tokens: bool = True,
    ) -> list[GroundedText]:
        """Read generated answers and tie their phrases to masks.

        Args:
            output (`ModelOutput`): what `model.generate(**inputs, return_dict_in_generate=True)` returned. Used are
                `sequences` `(B * n, L)`; of the regions that the user pointed at, for the `B_img` samples with an
                image, `region_boxes` `(B_img, K, 4)` normalized `cxcywh`, `region_scores` and `region_mask`
                `(B_img, K)`; and, if masks were decoded, `segment_logits`, for each sequence `(m, h, w)`, and
                `segment_quality`, for each `(m,)`: those of its `[SEG]`, in order.
            inputs (`Mapping`, *optional*): the inputs of `generate`. Needed if `sequences` start with the prompt (they
                do, except after `generate(inputs_embeds=…)`), or if some samples have no image.
            target_sizes (`Sequence[tuple[int, int]]`, *optional*): (height, width) in pixels of each of the `B_img`
                upright images. Needed where there are masks; without it boxes stay fractions (0..1) of the image size.
            skip_special_tokens (`bool`): whether to leave out padding, BOS and EOS. Grounding stays in either way.

        Returns:
            `list[GroundedText]`: one for each sequence. Its regions are the user's, and after them one for each
            `[SEG]`, with its mask and the `xyxy` box around it (zeros for an empty mask). Without decoded masks its
            phrases have no regions. Sequence `i` answers sample `i // n`.

        Raises:
            ValueError: if `output` is bare ids, or if the arguments do not fit each other.

        Example:
        ```python
        output = model.generate(**inputs, max_new_tokens=256, return_dict_in_generate=True)
        answer = processor.post_process_grounded_generation(output, inputs, target_sizes=[(height, width)])[0]
        print(answer.text, answer.phrases[0].masks)
        ```
        """
        refuse_ids(output)
        boxes = self._boxes_of_output(output, inputs, target_sizes)
        asked = match_answers(self, output.sequences, inputs, target_sizes, len(boxes), "images")
        refer_boxes = boxes_of_user(inputs, len(boxes))
        # An answer that is still being written has none.
        logits = getattr(output, "segment_logits", None)
        if logits is not None and len(logits) != len(asked.sequences):
            raise ValueError(
                f"`output.segment_logits` must have the masks of each sequence: got {len(logits)} for "
                f"{len(asked.sequences)} sequences."
            )
        answers = []
        for row, (ids, image) in enumerate(zip(asked.sequences.tolist(), asked.image_index, strict=True)):
            markup = self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
            tags = self._tags_of_tokens(ids, markup, skip_special_tokens)
            if image is None:
                answers.append(ground_segmented_text(markup, torch.zeros(0, 4), tags=tags))
                continue
            size = None if target_sizes is None else tuple(int(side) for side in target_sizes[image])
            user_regions, user_ids = self._regions_of_user(output, boxes[image], refer_boxes[image], image, size)
            segments = Regions([])
            if logits is not None:
                quality = getattr(output, "segment_quality", None)
                segments = self._segments(logits[row], None if quality is None else quality[row], size)
            first = len(user_regions)
            answer = ground_segmented_text(
                markup,
                torch.cat([user_regions.xyxy.float(), segments.xyxy.float()]),
                torch.cat([user_regions.scores.float(), segments.scores.float()]),
                user_region_ids=user_ids,
                first_segment=first,
                masks=dict(enumerate(segments.masks, first)) if len(segments) else None,
                tags=tags,
            )
            answers.append(answer)
        return answers

    def post_process_masks(self, masks: Any, target_sizes: Sequence[tuple[int, int]]) -> list[Regions]:
        """The masks that `model.segment` decoded, in the upright images.

        Args:
            masks: of B images, in the square of the grounding view. Of several masks of a region the best by its
                estimated quality is taken.
            target_sizes (`Sequence[tuple[int, int]]`): (height, width) in pixels of each upright image.

        Returns:
            `list[Regions]`: those of each image, with `masks` `(n, height, width)` and the boxes around them, zeros
            for an empty mask. Their scores are the estimated qualities, their numbers those of the rows that `segment`
            was given; rows of padding are left out.

        Raises:
            ValueError: if `target_sizes` does not have one entry for each image.
        """
        return regions_of_masks(masks, target_sizes, self._upright_masks)

    def _upright_masks(self, logits: torch.Tensor, height: int, width: int) -> np.ndarray:
        """Masks `(n, height, width)` of logits `(n, h, w)` in the grounding view."""
        return masks_in_square(logits, height, width, self.image_processor.grounding_size)

    def _boxes_of_output(
        self, output: Any, inputs: Mapping[str, Any] | None, target_sizes: Sequence[tuple[int, int]] | None
    ) -> torch.Tensor:
        """The boxes `(B_img, K, 4)` of the regions that the user pointed at, `K` 0 where there are none."""
        if getattr(output, "region_boxes", None) is not None:
            return exact_boxes(output.region_boxes, "output.region_boxes").detach().cpu()
        if inputs is not None and "input_ids" in inputs:
            prompts = torch.as_tensor(inputs["input_ids"])
            return torch.zeros(int((prompts == self.image_token_id).any(dim=-1).sum()), 0, 4)
        return torch.zeros(0 if target_sizes is None else len(target_sizes), 0, 4)

    def _regions_of_user(
        self,
        output: Any,
        boxes: torch.Tensor,
        refer_boxes: torch.Tensor,
        image: int,
        size: tuple[int, int] | None,
    ) -> tuple[Regions, list[int]]:
        """The regions that the user pointed at in this image, and which of them in this turn."""
        if len(boxes) == 0:
            return Regions([]), []
        mask = output.region_mask[image].cpu()
        asked = slots_of_boxes(refer_boxes, boxes, mask)
        rows = mask.nonzero().flatten().tolist()
        regions = Regions(boxes_in_pixels(boxes[rows], *(size or (1, 1))), output.region_scores[image].cpu()[rows])
        if any(slot not in rows for slot in asked):
            raise ValueError(
                f"`inputs` and `output` do not belong together: `inputs.refer_boxes` has {len(asked)} regions for "
                f"image {image}, but `output.region_mask` marks {len(rows)} in use."
            )
        return regions, [rows.index(slot) for slot in asked]

    def _segments(
        self, logits: torch.Tensor | None, quality: torch.Tensor | None, size: tuple[int, int] | None
    ) -> Regions:
        """The regions of an answer's `[SEG]`, with their masks."""
        if logits is None or len(logits) == 0:
            return Regions([])
        if size is None:
            raise ValueError(
                "`output` has masks, so `target_sizes` is needed, the (height, width) of each upright image: masks "
                "are pixels of it."
            )
        # The decoder's estimate, which a fine-tuning need not have trained.
        scores = torch.zeros(len(logits)) if quality is None else quality.detach().float().cpu().nan_to_num(0)
        masks = self._upright_masks(logits, *size)
        return Regions(masks_to_boxes(masks), scores, masks=masks)

    def _tags_of_tokens(
        self, ids: Sequence[int], markup: str, skip_special_tokens: bool
    ) -> list[tuple[int, int]] | None:
        """The spans of the tags that are tokens; `None` where all are.

        A model may spell `[SEG]` letter by letter, which has no mask. Where the text has more tags than there are
        tokens, each token is looked for behind what the ids before it decode to.
        """
        tokens = {self.tokenizer.convert_tokens_to_ids(tag): tag for tag in (PHRASE_START, PHRASE_END, SEGMENT_TOKEN)}
        places = [place for place, token_id in enumerate(ids) if token_id in tokens]
        if len(SEGMENT_TAG.findall(markup)) == len(places):
            return None
        spans: list[tuple[int, int]] = []
        for place in places:
            before = self.tokenizer.decode(ids[:place], skip_special_tokens=skip_special_tokens)
            tag = tokens[ids[place]]
            start = markup.find(tag, max(len(before), spans[-1][1] if spans else 0))
            if start >= 0:
                spans.append((start, start + len(tag)))
        return spans


__all__ = ["GlammAnswers"]
