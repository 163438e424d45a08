"""Answers several questions about the same image while encoding it, and what their prompts share, once.

RefCOCO has some seven expressions per image and LVIS-Ground several categories. The prompts of such rows are the same
up to the last region slot, which is most of their length, so only the questions after it differ.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.utils import ModelOutput

from ..models.groma.modeling_groma_outputs import GromaImageFeatures
from ..models.groma.processing_groma import GromaProcessor


def distinct_images(image_ids: Sequence[str], pixels: Sequence[Tensor]) -> list[int]:
    """Find out which rows have the same image. Images of one name are compared, as two datasets may use the same name.

    Args:
        image_ids (`Sequence[str]`): name of each row's image.
        pixels (`Sequence[Tensor]`): what the image processor made of the images, a row for each.

    Returns:
        `list[int]`: for each row, the first row with the same image.

    Example:
    >>> distinct_images(["a", "b", "a", "a"], [torch.tensor([1, 2, 1, 3])])
    [0, 1, 0, 3]
    """
    firsts: list[int] = []
    for row, name in enumerate(image_ids):
        candidates = (first for first in dict.fromkeys(firsts) if image_ids[first] == name)
        same = (first for first in candidates if all(torch.equal(view[first], view[row]) for view in pixels))
        firsts.append(next(same, row))
    return firsts


def image_views(processor: ProcessorMixin) -> tuple[str, ...]:
    """Which inputs of a model are made of images: a row for each, and all that `get_image_features` needs.

    Args:
        processor (`ProcessorMixin`): the processor of a model.

    Returns:
        `tuple[str, ...]`: their names.
    """
    return tuple(processor.image_processor.model_input_names)


def features_of_images(model: PreTrainedModel, views: Mapping[str, Tensor], images: Sequence[int]) -> ModelOutput:
    """What a model sees of the distinct images of rows.

    Args:
        model (`PreTrainedModel`): the model, in evaluation mode.
        views (`Mapping[str, Tensor]`): what the image processor made of the rows' images, on the model's device.
        images (`Sequence[int]`): for each row, the first row with its image.

    Returns:
        `ModelOutput`: of the distinct images, in the order of their first rows.
    """
    distinct = sorted(set(images))
    return model.get_image_features(**{name: view[distinct] for name, view in views.items()}, return_dict=True)


def features_of_rows(features: ModelOutput, images: Sequence[int]) -> ModelOutput:
    """What a model sees of the image of each row; rows share what is computed of their image later.

    Args:
        features (`ModelOutput`): of the distinct images; from [`features_of_images`].
        images (`Sequence[int]`): for each row, the first row with its image.

    Returns:
        `ModelOutput`: for `mm_encoder_outputs={"image": …}` or `encode_regions`.
    """
    of_images, distinct = features.split(), sorted(set(images))
    return type(features).stack([of_images[distinct.index(image)] for image in images])


def images_of_rows(
    image_ids: Sequence[str], inputs: Mapping[str, Tensor], processor: ProcessorMixin
) -> list[int] | None:
    """Find out which rows of a batch share an image.

    Args:
        image_ids (`Sequence[str]`): name of each row's image. Images of one name are compared, as two datasets may use
            the same name.
        inputs (`Mapping[str, Tensor]`): model inputs of the B rows, padded on the left.
        processor (`ProcessorMixin`): what made them.

    Returns:
        `list[int]`: for each row, the first row with the same image. `None` if there is nothing to share: all images
        differ, a row has no image or, for a Groma, boxes of its own, which take its region slots, or the prompts
        differ before their questions.
    """
    rows = len(image_ids)
    if len(set(image_ids)) == rows or len(inputs.get("pixel_values", ())) != rows:
        return None
    # The regions of a GLaMM's user come behind the image, where prompts may differ.
    if "refer_boxes" in inputs and isinstance(processor, GromaProcessor):
        return None
    padding, end = _prefix_bounds(inputs, processor.image_token_id)
    prefixes = {tuple(ids[start:stop].tolist()) for ids, start, stop in zip(inputs["input_ids"], padding, end)}
    if len(prefixes) > 1:
        return None
    firsts = distinct_images(image_ids, [inputs[name] for name in image_views(processor)])
    return None if firsts == list(range(rows)) else firsts


def generate_with_shared_images(
    model: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    images: Sequence[int],
    views: Sequence[str] = ("pixel_values",),
    features: ModelOutput | None = None,
    **kwargs: Any,
) -> GenerateDecoderOnlyOutput:
    """Like `model.generate`, but each image, and the common start of the prompts about it, is encoded once.

    The shared part of the prompt is read once for each image, which leaves a cache of keys and values. This cache is
    repeated for the rows about the image, and generation continues from it with their questions.

    Args:
        model (`PreTrainedModel`): a Groma or a GLaMM, in evaluation mode.
        inputs (`Mapping[str, Tensor]`): `input_ids` and `attention_mask` `(B, L)`, padded on the left, the views of
            the images and, for a GLaMM, perhaps `refer_boxes` of the rows, on the model's device.
        images (`Sequence[int]`): for each row, the first row with its image; from [`images_of_rows`].
        views (`Sequence[str]`): names of the inputs made of images; from [`image_views`].
        features (`ModelOutput`, *optional*): of the distinct images, in the order of their first rows, if they were
            encoded before.
        **kwargs: further arguments of `generate`, such as `max_new_tokens`; one sequence a row.

    Returns:
        The output of `generate` with `return_dict_in_generate=True`; its sequences begin with the prompts as given.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    distinct = sorted(set(images))
    # On the CPU, because with a device map the layers of the cache may be on several devices.
    order = torch.tensor([distinct.index(image) for image in images])
    padding, end = _prefix_bounds(inputs, model.config.image_token_id)
    length = int(end[0] - padding[0])
    prefix = ids[:1, padding[0] : end[0]]

    if features is None:
        features = features_of_images(model, {name: inputs[name] for name in views}, images)
    cache = model.new_cache()
    model.model(
        input_ids=prefix.expand(len(distinct), -1),
        mm_encoder_outputs={"image": features},
        past_key_values=cache,
        use_cache=True,
        # Only the cache is of interest: of the slots that end a Groma's prefix it needs those with a region.
        **({"states_to_keep": 0} if isinstance(features, GromaImageFeatures) else {}),
    )
    cache.batch_select_indices(order)

    # Prompts come as [padding, prefix, question]. The cache holds the prefix alone, at the same positions in all rows,
    # so the padding moves behind it: [prefix, padding, question]. Masked out, it changes no position of what follows.
    is_padding = torch.arange(ids.shape[1] - length, device=ids.device) < padding[:, None]
    pad_token_id = model.generation_config.pad_token_id
    questions = ids[:, length:].masked_fill(is_padding, 0 if pad_token_id is None else pad_token_id)
    output = model.generate(
        torch.cat([prefix.expand(len(ids), -1), questions], dim=1),
        attention_mask=torch.cat([mask.new_ones(len(ids), length), ~is_padding], dim=1).to(mask.dtype),
        past_key_values=cache,
        **_about_images(features, order, inputs.get("refer_boxes")),
        return_dict_in_generate=True,
        **kwargs,
    )
    output.sequences[:, : ids.shape[1]] = ids  # with the padding where it was
    return output


def _about_images(features: ModelOutput, order: Tensor, refer_boxes: Tensor | None) -> dict[str, Any]:
    """What the continuation of a cached prompt is told about the image of each row."""
    if isinstance(features, GromaImageFeatures):
        rows = ("region_boxes", "region_scores", "region_mask")
        return {
            "mm_encoder_outputs": {
                "image": GromaImageFeatures(**{name: getattr(features, name)[order] for name in rows})
            }
        }
    # A GLaMM keeps what it has seen with its cache, and the user's regions come with the question.
    return {} if refer_boxes is None else {"refer_boxes": refer_boxes}


def _prefix_bounds(inputs: Mapping[str, Tensor], image_token_id: int) -> tuple[Tensor, Tensor]:
    """Where each prompt begins, after its padding, and where its last placeholder ends; both `(B,)`."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    position = torch.arange(ids.shape[1], device=ids.device)
    return mask.argmax(dim=1), torch.where(ids == image_token_id, position, -1).amax(dim=1) + 1


__all__ = [
    "distinct_images",
    "features_of_images",
    "features_of_rows",
    "generate_with_shared_images",
    "image_views",
    "images_of_rows",
]
