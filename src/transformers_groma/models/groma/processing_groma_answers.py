"""Reads what Groma generated and decoded: phrases tied to boxes, regions and masks in pixels.

The model writes ids such as those of

    <p>Two dogs</p><roi><r3><r7></roi> on the grass.

and returns the boxes of its region slots beside them. `<r3>` is the region in slot 3, so the phrase "Two dogs" gets
the boxes of the slots 3 and 7. What the markup says is read by [`ground_text`]; here ids become markup, and the rows
of boxes find the sequences that they belong to.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ...boxes import boxes_in_pixels
from ...exact_boxes import exact_boxes
from ...grounding import GroundedText, ground_text
from ...masks import masks_of_logits
from ...regions import Regions, regions_of_slots
from ..processing_answers import boxes_of_user, match_answers, refuse_ids, regions_of_masks, slots_of_boxes


class GromaAnswers:
    """What [`GromaProcessor`] does with the outputs of a model."""

    tokenizer: PreTrainedTokenizerBase
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
                regions that it can name.
            region_scores (`Tensor` of shape `(R,)`, *optional*): their scores; all 1 without it.
            user_region_ids (`Sequence[int]`): which of them the user pointed at, in the order of the question.
            ids (`Sequence[int]`, *optional*): the tokens of the markup. Groma's markup is read without them.

        Returns:
            `GroundedText`: see [`ground_text`].
        """
        return ground_text(markup, region_boxes, region_scores, user_region_ids=user_region_ids)

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
        refuse_ids(output)
        boxes = torch.zeros(0, 0, 4)
        if output.region_boxes is not None:
            boxes = exact_boxes(output.region_boxes, "output.region_boxes").detach().cpu()
        asked = match_answers(self, output.sequences, inputs, target_sizes, len(boxes), "rows of `region_boxes`")
        refer_boxes = boxes_of_user(inputs, len(boxes))
        answers = []
        for ids, image in zip(asked.sequences, asked.image_index, strict=True):
            markup = self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
            if image is None:
                answers.append(ground_text(markup, torch.zeros(0, 4)))
                continue
            size = (1, 1) if target_sizes is None else (int(side) for side in target_sizes[image])
            regions = boxes_in_pixels(boxes[image], *size)
            mask = output.region_mask[image].cpu()
            user_slots = slots_of_boxes(refer_boxes[image], boxes[image], mask)
            answers.append(ground_text(markup, regions, output.region_scores[image], mask, user_slots))
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
            ValueError: if `target_sizes` does not have one entry for each image.

        Example:
        ```python
        proposals = model.propose_regions(inputs["pixel_values"])
        regions = processor.post_process_region_proposals(proposals, target_sizes=[(height, width)])[0]
        print(regions.xyxy, regions.scores)
        ```
        """
        return regions_of_slots(proposals.boxes, proposals.scores, proposals.mask, target_sizes)

    def post_process_masks(self, masks: Any, target_sizes: Sequence[tuple[int, int]]) -> list[Regions]:
        """The masks that `model.segment` decoded, in the upright images.

        Args:
            masks (`RegionMasks`): for B images, in the square that the model sees. Of several masks of a region the
                best by its estimated quality is taken.
            target_sizes (`Sequence[tuple[int, int]]`): (height, width) in pixels of each upright image.

        Returns:
            `list[Regions]`: those of each image, with `masks` `(n, height, width)` and the boxes around them, zeros
            for an empty mask. Their scores are the estimated qualities, their numbers those of the rows that `segment`
            was given; rows of padding are left out.

        Raises:
            ValueError: if `target_sizes` does not have one entry for each image.

        Example:
        ```python
        features = model.get_image_features(inputs["pixel_values"])
        masks = model.segment(features, boxes=inputs["refer_boxes"])
        region = processor.post_process_masks(masks, target_sizes=[(height, width)])[0][0]
        print(region.mask.sum(), region.box)
        ```
        """
        return regions_of_masks(masks, target_sizes, masks_of_logits)


__all__ = ["GromaAnswers"]
