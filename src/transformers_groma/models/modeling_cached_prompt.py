"""What a cache does not hold about its prompt: which tokens are off, and the regions of the images.

The model stores it as an attribute of the cache, so that the next step, or the next turn, continues the same prompt.
Callers may crop a cache, repeat its rows or choose some of them, which does not change the attribute: what happened
to the rows is found out by comparing the cache's keys with those it had.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from .modeling_compact_cache import TokenColumns
from .modeling_positions import check_mask, is_mask_of_tokens


@dataclass
class CachedPrompt:
    """The prompt that a cache holds, row by row.

    Attributes:
        attention_mask (`Tensor` of shape `(B, length)`, bool): which of the cached tokens are on.
        has_image (`Tensor` of shape `(B,)`, bool): which rows have an image.
        image_index (`Tensor` of shape `(B,)`, int64): where a row's image is among `feature_maps`; 0 without an image.
        region_boxes (`Tensor` of shape `(B, max_regions, 4)`), region_scores, region_mask (`(B, max_regions)`): the
            slots of each row; see `GromaImageFeatures`.
        feature_maps (`list[Tensor]`, *optional*): of the images, what new regions are encoded from.
        fused_maps (`list[Tensor]`, *optional*): the region encoder's fused maps of the images, where they were kept.
        views (`list`, *optional*): of the images, what masks are decoded from, in a family that keeps it here.
        keys (`Tensor`, *optional*): the cache's keys of one layer when the prompt was stored, to notice what happens
            to its rows.
        columns (`TokenColumns`, *optional*): which tokens a compact cache holds, when the prompt was stored.
    """

    attention_mask: Tensor
    has_image: Tensor
    image_index: Tensor
    region_boxes: Tensor
    region_scores: Tensor
    region_mask: Tensor
    feature_maps: list[Tensor] | None = None
    fused_maps: list[Tensor] | None = None
    views: list | None = None
    keys: Tensor | None = None
    columns: TokenColumns | None = None

    def select_rows(self, rows: Tensor) -> "CachedPrompt":
        """The same prompt with the rows at these indices `(B_new,)`, int64."""
        names = ("attention_mask", "has_image", "image_index", "region_boxes", "region_scores", "region_mask")
        selected = {name: getattr(self, name)[rows.to(getattr(self, name).device)] for name in names}
        return replace(self, columns=None if self.columns is None else self.columns.rows(rows), **selected)

    def maps_of_rows(self, maps: list[Tensor] | None) -> list[Tensor] | None:
        """Maps of the images `(N, C, H, W)` each, as maps of the rows `(B, C, H, W)`."""
        if maps is None or self.image_index.tolist() == list(range(len(maps[0]))):
            return maps
        return [level[self.image_index.to(level.device)] for level in maps]

    def with_mask(self, attention_mask: Tensor) -> "CachedPrompt":
        """The same prompt with another mask `(B, length)`; 0 for tokens that are off."""
        return replace(self, attention_mask=attention_mask.bool())


def remember_prompt(cache: Cache, prompt: CachedPrompt) -> None:
    """Store a prompt with the cache that holds it, unless the cache has no keys."""
    keys = _keys_of(cache)
    if keys is not None:
        cache.grounded_prompt = replace(prompt, keys=keys, columns=getattr(cache, "columns", None))


def recall_prompt(cache: Cache | None) -> CachedPrompt | None:
    """The prompt that was stored with a cache, adapted to the cache's present state: cropped, or other rows.

    Args:
        cache (`Cache`, *optional*): a cache that was given to a model.

    Returns:
        `CachedPrompt`, its mask as long as the cache; `None` if nothing was stored or the cache is empty.

    Raises:
        ValueError: the cache was changed in a way that cannot be followed.
    """
    prompt = getattr(cache, "grounded_prompt", None)
    if prompt is None:
        return None
    length = cached_length(cache)
    if length == 0:
        return None
    keys = _keys_of(cache)
    # The model stores the keys after each of its steps: other ones are the work of somebody else.
    if keys is not prompt.keys:
        prompt = prompt.select_rows(_match_rows(keys, prompt.keys))
        if prompt.columns is not None:
            cache.columns = prompt.columns  # rows may have been changed layer by layer
    return prompt.with_mask(_mask_of_length(prompt.attention_mask, length))


def remember_generated(cache: Cache | None, prompt: CachedPrompt) -> None:
    """Store a prompt with the cache in which generation continued it.

    Args:
        cache (`Cache`, *optional*): may be longer than the prompt, by what was generated, and have several rows for
            each of the prompt's, which follow one another: beams or returned sequences.
        prompt (`CachedPrompt`): before generation; not changed.
    """
    rows = 0 if cache is None else cached_rows(cache)
    if rows == 0:
        return
    prompt = prompt.select_rows(torch.arange(len(prompt.has_image)).repeat_interleave(rows // len(prompt.has_image)))
    remember_prompt(cache, prompt.with_mask(_mask_of_length(prompt.attention_mask, cached_length(cache))))


def forget_prompt(cache: Cache | None) -> None:
    """Undo [`remember_prompt`]."""
    if getattr(cache, "grounded_prompt", None) is not None:
        cache.grounded_prompt = None


def cached_length(cache: Cache | None) -> int:
    """How many tokens a cache holds; 0 without a cache."""
    if cache is None:
        return 0
    length = cache.get_seq_length()
    # Static caches count on the device: outside of a compiled graph the number is read once.
    return length if torch.compiler.is_compiling() else int(length)


def cached_rows(cache: Cache) -> int:
    """How many rows a cache holds; 0 while it is empty."""
    keys = _keys_of(cache)
    return 0 if keys is None else len(keys)


def check_rows(cached: CachedPrompt, rows: int) -> None:
    """Check that a prompt that continues a cached one has as many rows.

    Raises:
        ValueError: it has another number.
    """
    if rows != len(cached.has_image):
        raise ValueError(
            f"`past_key_values` holds {len(cached.has_image)} samples, the prompt that continues it has {rows}. "
            "Repeat the prompt, or keep the samples that continue (after beam search one of each) with "
            "`past_key_values.batch_select_indices`."
        )


def check_step_mask(attention_mask: Tensor | dict | None, cache: Cache | None, length: int) -> None:
    """Check that the mask of a step covers what the cache holds and the `length` new tokens.

    Raises:
        ValueError: another shape.
    """
    if cache is not None and is_mask_of_tokens(attention_mask):
        check_mask(attention_mask, len(attention_mask), cached_length(cache) + length)


def _mask_of_length(attention_mask: Tensor, length: int) -> Tensor:
    """Cut or extend a mask to `(B, length)`; tokens that something else put into the cache count as on."""
    attention_mask = attention_mask[:, :length]
    return torch.nn.functional.pad(attention_mask, (0, length - attention_mask.shape[1]), value=True)


def _keys_of(cache: Cache) -> Tensor | None:
    """The keys of one layer of a cache, of one that holds all tokens if there is one."""
    layers = [layer for layer in cache.layers if isinstance(getattr(layer, "keys", None), Tensor)]
    layers = [layer for layer in layers if layer.keys.numel() > 0]
    whole = [layer for layer in layers if not getattr(layer, "is_sliding", False)]
    return (whole or layers)[-1].keys if layers else None


def _match_rows(keys: Tensor | None, old_keys: Tensor) -> Tensor:
    """Which old row each cache row is: `(B_new,)`. Rows may have been selected, repeated, reordered or cropped."""
    if keys is not None and keys.shape[1] == old_keys.shape[1]:
        length = min(keys.shape[2], old_keys.shape[2])
        keys, old_keys = keys[:, :, :length], old_keys[:, :, :length].to(keys.device)
        found = []
        for row in range(len(keys)):
            # Where rows are equal, a row is itself before it is another.
            candidates = sorted(range(len(old_keys)), key=lambda index, row=row: index != row)
            found.append(next((index for index in candidates if torch.equal(keys[row], old_keys[index])), None))
        if None not in found:
            return torch.tensor(found)
    raise ValueError(
        "`past_key_values` no longer holds the prompt that this model read into it, so it is unknown which of its "
        "region slots are switched off. Start from the whole prompt with an empty cache."
    )


__all__ = [
    "CachedPrompt",
    "cached_length",
    "cached_rows",
    "check_rows",
    "check_step_mask",
    "forget_prompt",
    "recall_prompt",
    "remember_generated",
    "remember_prompt",
]
