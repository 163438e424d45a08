"""Prepares a prompt for the language model: placeholders of images, marks of regions, what a cache should remember."""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.utils import torch_compilable_check

from ..modeling_cached_prompt import CachedPrompt, check_rows, check_step_mask
from ..modeling_checks import check_one_image_per_sample
from ..modeling_placeholders import fill_placeholders, image_index_of_rows, known_ids
from ..modeling_positions import check_mask, continued_mask
from .modeling_glamm_outputs import NO_IMAGE, GlammImageFeatures
from .modeling_glamm_perception import TurnRegions, VisualTokens


class PreparedPrompt(NamedTuple):
    """A prompt as the language model reads it, but for visual tokens. One without images has only what callers give.

    Attributes:
        input_ids (`Tensor` of shape `(B, length)`), inputs_embeds (`Tensor` of shape `(B, length, hidden_size)`): one
            of the two.
        attention_mask (`Tensor` of shape `(B, cached + length)`): 0 for padding.
        is_image, is_region (`Tensor` of shape `(B, length)`, bool): where image tokens and region tokens go.
        image_index (`Tensor` of shape `(B,)`): which row of visual tokens belongs to each row.
        output_fields (`dict`): what outputs say about the prompt; see `GlammModelOutputWithPast`.
        memory (`CachedPrompt`): what to remember of the prompt with its cache.
    """

    input_ids: Tensor | None
    inputs_embeds: Tensor | None
    attention_mask: Tensor | None
    is_image: Tensor | None = None
    is_region: Tensor | None = None
    image_index: Tensor | None = None
    output_fields: dict = {}
    memory: CachedPrompt | None = None

    def fill(self, inputs_embeds: Tensor, tokens: VisualTokens) -> Tensor:
        """Embeddings `(B, length, hidden_size)` with visual tokens in their places."""
        filled = fill_placeholders(inputs_embeds, self.is_image, tokens.image, self.image_index)
        return self.fill_regions(filled, tokens.regions)

    def fill_regions(self, inputs_embeds: Tensor, tokens: Tensor) -> Tensor:
        """Embeddings `(B, length, hidden_size)` with region tokens `(N, K, hidden_size)` in their places."""
        if not tokens.shape[1]:
            return inputs_embeds
        return fill_placeholders(inputs_embeds, self.is_region, tokens, self.image_index)


class GlammPromptMixin:
    """The steps from a caller's prompt to the one that the language model reads. What callers pass is not changed."""

    def get_placeholder_mask(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """Where image tokens go: `(B, length)`, bool. Embeddings are compared with the placeholder's."""
        return self._known_ids(input_ids, inputs_embeds) == self.config.image_token_id

    def prepare_prompt(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        features: GlammImageFeatures,
        past_length: int = 0,
    ) -> PreparedPrompt:
        """Prepare a prompt with images.

        Args:
            input_ids (`Tensor` of shape `(B, length)`), inputs_embeds (`Tensor` of shape `(B, length, hidden_size)`):
                one of the two; not changed.
            attention_mask (`Tensor` of shape `(B, past_length + length)`, *optional*): 0 for padding; not changed.
            features (`GlammImageFeatures`): of the images.
            past_length (`int`): tokens without images that a cache holds before these.

        Returns:
            `PreparedPrompt`.

        Raises:
            ValueError: placeholders or marks that do not fit the images, or a mask that does not fit the prompt.
        """
        ids = self._known_ids(input_ids, inputs_embeds)
        is_image, is_region = ids == self.config.image_token_id, ids == self.config.region_token_id
        check_one_image_per_sample(is_image, len(features.region_mask))
        image_index = image_index_of_rows(is_image)
        self._check_marks(is_image, is_region, features.region_mask.sum(dim=1).to(ids.device)[image_index])
        rows, length = ids.shape
        if attention_mask is None:
            attention_mask = torch.ones(rows, past_length + length, dtype=torch.long, device=ids.device)
        check_mask(attention_mask, rows, past_length + length)
        index, has_image = image_index.to(features.region_boxes.device), is_image.any(dim=1)
        return PreparedPrompt(
            input_ids,
            inputs_embeds,
            attention_mask,
            is_image,
            is_region,
            image_index,
            output_fields={
                "region_boxes": features.region_boxes,
                "region_scores": features.region_scores,
                "region_mask": features.region_mask,
                "grounding": features.grounding,
                "image_index": image_index.masked_fill(~has_image, NO_IMAGE),
            },
            memory=CachedPrompt(
                attention_mask=attention_mask.bool(),
                has_image=has_image.to(index.device),
                image_index=index,
                region_boxes=features.region_boxes[index],
                region_scores=features.region_scores[index],
                region_mask=features.region_mask[index],
                feature_maps=features.region_feature_maps,
                views=features.grounding,
            ),
        )

    def continue_prompt(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        cached: CachedPrompt,
        new_regions: TurnRegions | None = None,
    ) -> PreparedPrompt:
        """Prepare the continuation of a cached prompt: the next token, or a later turn, perhaps with new regions.

        Args:
            input_ids (`Tensor` of shape `(B, length)`), inputs_embeds (`Tensor` of shape `(B, length, hidden_size)`):
                one of the two, only what is new; not changed.
            attention_mask (`Tensor` of shape `(B, cached + length)` or `(B, length)`, *optional*): 0 for padding.
            cached (`CachedPrompt`): what the cache holds, with the new regions; not changed.
            new_regions (`TurnRegions`, *optional*): the regions that this turn points at, of `encode_turn_regions`.

        Returns:
            `PreparedPrompt`.

        Raises:
            ValueError: marks or a mask that do not fit, or another number of rows.
        """
        ids = self._known_ids(input_ids, inputs_embeds)
        rows, length = ids.shape
        check_rows(cached, rows)
        attention_mask = continued_mask(attention_mask, cached.attention_mask.to(ids.device), length)
        is_image, is_region = ids == self.config.image_token_id, ids == self.config.region_token_id
        self._check_no_image(is_image)
        counts = None if new_regions is None else new_regions.counts.to(ids.device)
        # A model may say `<bbox>` itself, one token at a time.
        if counts is not None or length > 1:
            self._check_turn(is_region, counts)
        has_image = cached.has_image
        return PreparedPrompt(
            input_ids,
            inputs_embeds,
            attention_mask,
            is_image & False,
            is_region,
            torch.arange(rows, device=ids.device),
            output_fields={
                "region_boxes": cached.region_boxes[has_image],
                "region_scores": cached.region_scores[has_image],
                "region_mask": cached.region_mask[has_image],
                "grounding": cached.views,
                "image_index": cached.image_index.masked_fill(~has_image, NO_IMAGE).to(ids.device),
            },
            memory=cached.with_mask(attention_mask),
        )

    def _check_marks(self, is_image: Tensor, is_region: Tensor, counts: Tensor) -> None:
        """Check that rows with an image have its placeholders and a mark for each of its regions, others nothing."""
        found, marks, needed = is_image.sum(dim=1), is_region.sum(dim=1), self.config.num_image_tokens
        has_image = found > 0
        torch_compilable_check(
            (~has_image | (found == needed)).all(),
            lambda: (
                f"A sample with an image needs {needed} image placeholders (id {self.config.image_token_id}), found "
                f"{found.tolist()}. Build the prompt with the model's processor."
            ),
        )
        torch_compilable_check(
            (marks == torch.where(has_image, counts, 0)).all(),
            lambda: (
                f"Every region needs one `<bbox>` mark (id {self.config.region_token_id}): `refer_boxes` has "
                f"{torch.where(has_image, counts, 0).tolist()} for the samples, which have {marks.tolist()} marks."
            ),
        )

    def _check_turn(self, is_region: Tensor, counts: Tensor | None) -> None:
        """Check that a later turn has one mark for each of its own regions."""
        marks = is_region.sum(dim=1)
        torch_compilable_check(
            (marks == (0 if counts is None else counts)).all(),
            lambda: (
                "A later turn needs one `<bbox>` mark for each of its own regions: `refer_boxes` has "
                f"{'none' if counts is None else counts.tolist()}, the new tokens have {marks.tolist()} marks."
            ),
        )

    def _check_no_image(self, is_image: Tensor) -> None:
        """Check that a prompt without an image does not have the placeholders of one."""
        if is_image.shape[1] < self.config.num_image_tokens:
            return
        found = is_image.sum(dim=1)
        torch_compilable_check(
            (found < self.config.num_image_tokens).all(),
            lambda: (
                f"The prompt has {found.tolist()} placeholders of an image (id {self.config.image_token_id}), but "
                "there is no image: pass `pixel_values` or, to continue a prompt in a cache, only the new tokens."
            ),
        )

    def _known_ids(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """The ids of a prompt `(B, length)`; of embeddings only those of placeholders and marks, -1 elsewhere."""
        tokens = (self.config.image_token_id, self.config.region_token_id)
        return known_ids(input_ids, inputs_embeds, tokens, self.get_input_embeddings())


def prompt_as_it_is(
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    attention_mask: Tensor | dict | None,
    cache: Cache | None = None,
) -> PreparedPrompt:
    """A prompt that needs no preparation: text alone, or a generation step that is already prepared.

    Args:
        input_ids (`Tensor` of shape `(B, length)`), inputs_embeds (`Tensor` of shape `(B, length, hidden_size)`): one
            of the two.
        attention_mask (`Tensor` of shape `(B, cached + length)`, *optional*): 0 for padding; or what generation made
            of it for a static cache.
        cache (`Cache`, *optional*): holds the tokens before these.

    Returns:
        `PreparedPrompt` without places for visual tokens.

    Raises:
        ValueError: a mask that does not fit.
    """
    check_step_mask(attention_mask, cache, (input_ids if inputs_embeds is None else inputs_embeds).shape[1])
    return PreparedPrompt(input_ids, inputs_embeds, attention_mask)


__all__ = ["GlammPromptMixin", "PreparedPrompt", "prompt_as_it_is"]
