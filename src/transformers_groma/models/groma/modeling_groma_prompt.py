"""Prepares a prompt for the language model: placeholders, unused slots off, boxes to slots."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from ..modeling_cached_prompt import CachedPrompt, check_rows, check_step_mask
from ..modeling_checks import check_one_image_per_sample
from ..modeling_placeholders import fill_placeholders, image_index_of_rows, known_ids
from ..modeling_positions import check_mask, continued_mask
from .configuration_groma import GromaConfig
from .modeling_groma_checks import check_placeholders, check_turn
from .modeling_groma_outputs import GromaImageFeatures
from .modeling_groma_perception import TurnRegions
from .modeling_groma_regions import resolve_box_tokens


class PreparedPrompt(NamedTuple):
    """A prompt as the language model reads it, but for visual tokens. One without images has only what callers give.

    Attributes:
        input_ids (`Tensor` of shape `(B, length)`), inputs_embeds (`Tensor` of shape `(B, length, hidden_size)`): one
            of the two, with proxy tokens in the places of boxes.
        attention_mask (`Tensor` of shape `(B, cached + length)`): unused region slots are off.
        placeholder_mask (`Tensor` of shape `(B, length)`, bool): where visual tokens go.
        image_index (`Tensor` of shape `(B,)`): which row of visual tokens belongs to each row.
        output_fields (`dict[str, Tensor | None]`): what outputs say about the prompt: regions, slots, the mask; see
            `GromaModelOutputWithPast`.
        memory (`CachedPrompt`): what to remember of the prompt with its cache.
    """

    input_ids: Tensor | None
    inputs_embeds: Tensor | None
    attention_mask: Tensor | None
    placeholder_mask: Tensor | None
    image_index: Tensor | None
    output_fields: dict[str, Tensor | None]
    memory: CachedPrompt | None

    def fill(self, inputs_embeds: Tensor, tokens: Tensor) -> Tensor:
        """Embeddings `(B, length, hidden_size)` with visual tokens `(N, n, hidden_size)` in their places."""
        return fill_placeholders(inputs_embeds, self.placeholder_mask, tokens, self.image_index)


class GromaPromptMixin:
    """The steps from a caller's prompt to the one that the language model reads. What callers pass is not changed."""

    def get_placeholder_mask(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """Where the visual features go: `(B, length)`, bool. Embeddings are compared with the placeholder's."""
        return self._known_ids(input_ids, inputs_embeds) == self.config.image_token_id

    def prepare_prompt(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
        features: GromaImageFeatures,
        past_length: int = 0,
        num_visual_tokens: Tensor | None = None,
        pixel_index: Tensor | None = None,
    ) -> PreparedPrompt:
        """Prepare a prompt with images: switch unused region slots off, replace boxes by their proxy tokens.

        Args:
            input_ids (`Tensor` of shape `(B, length)`), inputs_embeds (`Tensor` of shape `(B, length, hidden_size)`):
                one of the two; not changed.
            attention_mask (`Tensor` of shape `(B, past_length + length)`, *optional*): 0 for padding; not changed.
            features (`GromaImageFeatures`): of the images.
            past_length (`int`): tokens without images that a cache holds before these.
            num_visual_tokens (`Tensor` of shape `(B_images,)`, *optional*): how many placeholders each image needs, to
                check that the prompt has them.
            pixel_index (`Tensor` of shape `(B_images,)`, *optional*): which maps of `features` are those of each
                sample, where samples share images.

        Returns:
            `PreparedPrompt`.

        Raises:
            ValueError: placeholders that do not fit the images, or a mask that does not fit the prompt.
        """
        ids = self._known_ids(input_ids, inputs_embeds)
        placeholder_mask = ids == self.config.image_token_id
        check_one_image_per_sample(placeholder_mask, len(features.region_mask))
        image_index = image_index_of_rows(placeholder_mask)
        if num_visual_tokens is not None:
            check_placeholders(placeholder_mask, num_visual_tokens, image_index, self.config)
        rows, length = ids.shape
        if attention_mask is None:
            attention_mask = torch.ones(rows, past_length + length, dtype=torch.long, device=ids.device)
        check_mask(attention_mask, rows, past_length + length)
        token_mask = self.mask_unused_regions(
            attention_mask[:, past_length:], placeholder_mask, features.region_mask.to(attention_mask.device)
        )
        attention_mask = torch.cat([attention_mask[:, :past_length], token_mask], dim=1)
        resolved = resolve_row_boxes(ids, features.refer_slots, features.ground_slots, image_index, self.config)
        # With a device map the regions may live on another device than the prompt.
        index = image_index.to(features.region_boxes.device)
        return PreparedPrompt(
            *self._with_proxies(input_ids, inputs_embeds, ids, resolved),
            attention_mask=attention_mask,
            placeholder_mask=placeholder_mask,
            image_index=image_index,
            output_fields={
                "region_boxes": features.region_boxes,
                "region_scores": features.region_scores,
                "region_mask": features.region_mask,
                "refer_slots": features.refer_slots,
                "ground_slots": features.ground_slots,
                "image_index": image_index,
                "token_mask": token_mask.bool(),
            },
            memory=CachedPrompt(
                attention_mask=attention_mask.bool(),
                has_image=placeholder_mask.any(dim=1).to(index.device),
                image_index=index if pixel_index is None else pixel_index.to(index.device)[index],
                region_boxes=features.region_boxes[index],
                region_scores=features.region_scores[index],
                region_mask=features.region_mask[index],
                feature_maps=features.region_feature_maps,
                fused_maps=features.fused_region_maps,
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
            attention_mask (`Tensor` of shape `(B, cached + length)` or `(B, length)`, *optional*): 0 for padding; not
                changed.
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
        placeholder_mask = ids == self.config.image_token_id
        slots = counts = None
        if new_regions is not None:
            slots, counts = new_regions.slots, new_regions.counts.to(ids.device)
        check_turn(placeholder_mask, ids == self.config.refer_box_token_id, counts, self.config)
        # Regions of a later turn come row by row, also for rows without an image.
        row_index = torch.arange(rows, device=ids.device)
        resolved = resolve_row_boxes(ids, slots, None, row_index, self.config)
        has_image = cached.has_image
        return PreparedPrompt(
            *self._with_proxies(input_ids, inputs_embeds, ids, resolved),
            attention_mask=attention_mask,
            placeholder_mask=placeholder_mask,
            image_index=row_index,
            output_fields={
                "region_boxes": cached.region_boxes[has_image],
                "region_scores": cached.region_scores[has_image],
                "region_mask": cached.region_mask[has_image],
                "refer_slots": None if slots is None else slots[has_image],
                "image_index": (has_image.long().cumsum(dim=0) - 1).clamp(min=0),
                "token_mask": attention_mask[:, -length:].bool(),
            },
            memory=cached.with_mask(attention_mask),
        )

    def mask_unused_regions(self, attention_mask: Tensor, placeholder_mask: Tensor, region_mask: Tensor) -> Tensor:
        """Switch empty region slots off in the attention mask.

        Args:
            attention_mask (`Tensor` of shape `(B, length)`): 1 for tokens, 0 for padding; not changed.
            placeholder_mask (`Tensor` of shape `(B, length)`, bool): placeholders of visual features.
            region_mask (`Tensor` of shape `(B_images, max_regions)`, bool): used slots of the rows that have an image.

        Returns:
            `Tensor` of shape `(B, length)`: 0 also at the proxy token and the placeholder of every unused slot.
        """
        # Placeholders come in the order image tokens, region slots, referred regions: the slot of a placeholder is
        # its number in the row, counted from the end of the image tokens.
        slot = placeholder_mask.cumsum(dim=1) - 1 - self.config.num_image_tokens
        is_slot = placeholder_mask & (slot >= 0) & (slot < self.config.max_regions)
        # With a device map the proposer may live on another device than the prompt.
        region_mask = region_mask.to(placeholder_mask.device)[image_index_of_rows(placeholder_mask)]
        used = region_mask.gather(1, slot.clamp(0, self.config.max_regions - 1))
        unused = is_slot & ~used
        # The slot's proxy token directly precedes its placeholder.
        proxy = nn.functional.pad(unused[:, 1:], (0, 1)) & ~placeholder_mask
        return attention_mask * ~(unused | proxy)

    def _known_ids(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """The ids of a prompt `(B, length)`; of embeddings only those of placeholders and box marks, -1 elsewhere."""
        config = self.config
        tokens = (config.image_token_id, config.refer_box_token_id, config.ground_box_token_id)
        return known_ids(input_ids, inputs_embeds, tokens, self.get_input_embeddings())

    def _with_proxies(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, ids: Tensor, resolved: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """The ids or embeddings, whichever were given, with `resolved` in place of the known `ids`."""
        if input_ids is not None:
            return resolved, None
        changed = (resolved != ids)[..., None]
        return None, torch.where(changed, self.get_input_embeddings()(resolved.clamp(min=0)), inputs_embeds)


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
    return PreparedPrompt(input_ids, inputs_embeds, attention_mask, None, None, output_fields={}, memory=None)


def resolve_row_boxes(
    token_ids: Tensor,
    refer_slots: Tensor | None,
    ground_slots: Tensor | None,
    index: Tensor,
    config: GromaConfig,
) -> Tensor:
    """Replace `<refer_box>` and `<ground_box>` in ids (or labels) with the proxy tokens of their slots.

    Args:
        token_ids (`Tensor` of shape `(B, length)`): ids or labels; not changed.
        refer_slots, ground_slots (`Tensor` of shape `(N, n)`, *optional*): slots of the boxes.
        index (`Tensor` of shape `(B,)`): whose slots are those of each row.
        config (`GromaConfig`): token ids.

    Returns:
        `Tensor` of shape `(B, length)`.
    """
    for token_id, slots in (
        (config.refer_box_token_id, refer_slots),
        (config.ground_box_token_id, ground_slots),
    ):
        if slots is not None:
            slots = slots.to(token_ids.device)[index.to(token_ids.device)]
            token_ids = resolve_box_tokens(token_ids, token_id, slots, config.first_proxy_token_id)
    return token_ids


__all__ = [
    "GromaPromptMixin",
    "PreparedPrompt",
    "prompt_as_it_is",
    "resolve_row_boxes",
]
