"""Images that a model has looked at once, to ask many questions about them: encoding, keeping, prompts."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from ._words import counted
from .image_inputs import ImageSize, image_size, to_rgb
from .models.processing_inputs import pad_left
from .models.processing_regions import REFER_INPUTS


@dataclass(frozen=True, eq=False)
class PerceivedImage:
    """What a model has seen of an image, without any user boxes.

    Args:
        size (`ImageSize`): of the upright image. Stands for the image in a prompt.
        features (`ModelOutput`): of the model's `get_image_features`, a batch of this one image.
    """

    size: ImageSize
    features: Any


@torch.inference_mode()
def perceive(model: Any, processor: Any, images: Sequence[Any], keep_fused_maps: bool = False) -> list[PerceivedImage]:
    """Look at images, all in one call of the model.

    Args:
        model (`PreTrainedModel`): has `get_image_features` and `encode_regions`, as `GromaForConditionalGeneration`.
        processor (`ProcessorMixin`): of the model.
        images (`Sequence`): upright images, as `read_upright` returns them.
        keep_fused_maps (`bool`): see `GromaModel.get_image_features`; for later questions about regions of their own.

    Returns:
        `list[PerceivedImage]`: in the order of the images.

    Example:
    >>> from transformers import AutoModelForImageTextToText, AutoProcessor
    >>> import transformers_groma
    >>> model = AutoModelForImageTextToText.from_pretrained("hub_configs/groma-tiny")
    >>> processor = AutoProcessor.from_pretrained("hub_configs/groma-tiny")
    >>> perceive(model, processor, [Image.new("RGB", (320, 240), "white")])[0].size
    ImageSize(height=240, width=320)
    """
    if not images:
        return []
    sizes = [ImageSize(*image_size(image)) for image in images]
    inputs = processor.image_processor(images=list(images), return_tensors="pt")
    return perceive_inputs(model, dict(inputs), sizes, keep_fused_maps)


@torch.inference_mode()
def perceive_inputs(
    model: Any,
    image_inputs: Mapping[str, torch.Tensor],
    sizes: Sequence[ImageSize],
    keep_fused_maps: bool = False,
) -> list[PerceivedImage]:
    """As [`perceive`], of images that the image processor prepared before, in another thread for instance.

    Args:
        model (`PreTrainedModel`): as for [`perceive`].
        image_inputs (`Mapping[str, Tensor]`): everything that the image processor made of B images, a row for each, on
            any device: `pixel_values` and, for a model that looks twice, the second view.
        sizes (`Sequence[ImageSize]`): of the B upright images.
        keep_fused_maps (`bool`): see [`perceive`].

    Returns:
        `list[PerceivedImage]`: in the order of the images.
    """
    inputs = {name: rows.to(model.device) for name, rows in image_inputs.items()}
    if keep_fused_maps:
        inputs["keep_fused_maps"] = True
    features = model.get_image_features(**inputs, return_dict=True)
    return [PerceivedImage(size, one) for size, one in zip(sizes, features.split(), strict=True)]


def image_key(image: Image.Image) -> str:
    """A name for the content of an image: equal for two images exactly if a model sees the same in both.

    Args:
        image (`PIL.Image.Image`): any mode; turned upright and made RGB as for the model.

    Returns:
        `str`: a digest of size and pixels.

    Example:
    >>> image_key(Image.new("RGB", (4, 2), "red")) == image_key(Image.new("RGB", (2, 4), "red"))
    False
    """
    rgb = to_rgb(image)
    digest = hashlib.blake2b(f"{rgb.width}x{rgb.height}".encode(), digest_size=20)
    digest.update(rgb.tobytes())
    return digest.hexdigest()


class PerceivedImages:
    """The perceived images that were used last, by their [`image_key`]. Threads may share it.

    Args:
        capacity (`int`): how many are kept; 0 keeps none. A full-size Groma needs some 16 MB for each: three feature
            maps of 1024 x 32 x 32 in float32 and 356 tokens of 4096 in half precision. With a mask decoder it needs
            some 22 MB: one map more, and the pixels. A full-size GLaMM needs some 31 MB: four maps of 1024 x 24 x 24,
            576 tokens, SAM's view of 3 x 1024 x 1024 and, once masks were decoded, its embedding of 256 x 64 x 64.

    Raises:
        ValueError: a negative capacity.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise ValueError(f"`capacity` must not be negative, got {capacity}. 0 keeps no image.")
        self.capacity = capacity
        self._images: OrderedDict[str, PerceivedImage] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> PerceivedImage | None:
        """The image with this key, which then counts as used last; `None` if it is not kept."""
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
            return self._images.get(key)

    def put(self, key: str, image: PerceivedImage) -> None:
        """Keep an image, and drop the one that was not used for longest if there are too many."""
        with self._lock:
            self._images[key] = image
            self._images.move_to_end(key)
            while len(self._images) > self.capacity:
                self._images.popitem(last=False)

    def __len__(self) -> int:
        with self._lock:
            return len(self._images)


def prompt_inputs(
    model: Any,
    processor: Any,
    conversations: Sequence[Sequence[Mapping[str, Any]]],
    perceived: Sequence[PerceivedImage | None],
) -> dict[str, Any]:
    """What `generate` takes for conversations about images that were perceived before.

    Args:
        model (`PreTrainedModel`), processor (`ProcessorMixin`): as for [`perceive`].
        conversations (`Sequence`): messages of each, see the processor's `apply_chat_template`; boxes of region parts
            are `xyxy`, and all coordinates are absolute pixels of the upright image. The last message is the user's.
            What an image part holds as its image is not looked at.
        perceived (`Sequence[PerceivedImage | None]`): the image of each conversation, `None` for one without.

    Returns:
        `dict`: `input_ids` and `attention_mask` `(B, L)`, padded on the left, and for images `mm_encoder_outputs`,
        `refer_boxes` and what the processor has for points, all on the model's device.

    Raises:
        ValueError: conversations and images do not fit each other, or a conversation is not one.
    """
    conversations = [
        _with_size(messages, image, index)
        for index, (messages, image) in enumerate(zip(conversations, perceived, strict=True))
    ]
    encoded = processor.apply_chat_template(conversations, tokenize=True, return_dict=True, add_generation_prompt=True)
    inputs: dict[str, Any] = pad_left(encoded["input_ids"], processor.tokenizer.pad_token_id)
    for name in REFER_INPUTS:
        if name in encoded:
            inputs[name] = torch.stack([torch.as_tensor(rows) for rows in encoded[name]])
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    if features := [image.features for image in perceived if image is not None]:
        inputs["mm_encoder_outputs"] = {"image": type(features[0]).stack(features)}
    return inputs


def _with_size(
    messages: Sequence[Mapping[str, Any]], image: PerceivedImage | None, index: int
) -> list[dict[str, Any]]:
    """The messages with the size of the image in place of its pixels."""
    found = 0
    result = []
    for message in messages:
        content = message.get("content")
        if not isinstance(content, str) and content is not None:
            parts = []
            for part in content:
                if isinstance(part, Mapping) and part.get("type") == "image":
                    found += 1
                    part = {"type": "image", "image": None if image is None else image.size}
                parts.append(part)
            content = parts
        result.append({**message, "content": content})
    if found != (image is not None):
        raise ValueError(
            f"Conversation {index} has {counted(found, 'image part')} and "
            f"{'an' if image is not None else 'no'} image. Write one image part where there is an image, and none "
            "otherwise."
        )
    return result


__all__ = ["PerceivedImage", "PerceivedImages", "image_key", "perceive", "perceive_inputs", "prompt_inputs"]
