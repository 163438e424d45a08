"""Images as the inputs of an image encoder: exactly what its image processor makes of them, in less time for views.

The library's image processors convert each image to an array, back for resizing, and scale and normalize its floats by
itself. Views are many, small and square, and most of that is overhead, which also holds Python's lock. Here Pillow
resizes them as they are, and the whole batch is scaled and normalized at once, by the same arithmetic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_backends import PilBackend

# What a processor must not do in its own way.
_STEPS = ("_preprocess", "preprocess", "process_image", "resize", "center_crop", "rescale", "normalize")


@dataclass(frozen=True, eq=False)
class Crop:
    """A part of an image that is cut out where it is used. The views of a large photo take more memory than it does.

    Args:
        image (`PIL.Image.Image`): the whole.
        box (`tuple[int, int, int, int]`): `xyxy` in absolute pixels, right and bottom exclusive.
    """

    image: Image.Image
    box: tuple[int, int, int, int]

    @property
    def mode(self) -> str:
        """The mode of the image."""
        return self.image.mode

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.box[3] - self.box[1]


def _cut(image: Image.Image | Crop) -> Image.Image:
    return image.image.crop(image.box) if isinstance(image, Crop) else image


class ImagePreparation:
    """Calls an image processor, or does the same faster where nothing but the usual steps are asked for.

    Those are resizing by Pillow, rescaling and normalizing, and a crop that takes nothing away: of a CLIP, images that
    are square; of a SigLIP, all images.

    Args:
        image_processor (`BaseImageProcessor`): of an image encoder; or anything that is called like one.
    """

    def __init__(self, image_processor: Any) -> None:
        self.image_processor = image_processor

    def __call__(self, images: Sequence[Image.Image | Crop]) -> dict[str, Tensor]:
        """Prepare images.

        Args:
            images (`Sequence` of `PIL.Image.Image` or [`Crop`]): of mode RGB.

        Returns:
            `dict[str, Tensor]`: the tensors that the image processor gives, equal to the last bit.
        """
        sizes = [self._plain_size(image) for image in images]
        size = next((one for one in sizes if one is not None), None)
        if size is None:
            return self._by_processor(images)
        is_plain = [one is not None for one in sizes]
        pixels = self._plain([image for image, plain in zip(images, is_plain, strict=True) if plain], size)
        if all(is_plain):
            return {"pixel_values": pixels}
        others = self._by_processor([image for image, plain in zip(images, is_plain, strict=True) if not plain])
        prepared = pixels.new_empty(len(images), *pixels.shape[1:])
        prepared[torch.tensor(is_plain)] = pixels
        prepared[~torch.tensor(is_plain)] = others["pixel_values"]
        return {"pixel_values": prepared}

    def _by_processor(self, images: Sequence[Image.Image | Crop]) -> dict[str, Tensor]:
        inputs = self.image_processor(images=[_cut(image) for image in images], return_tensors="pt")
        return {name: values for name, values in inputs.items() if isinstance(values, Tensor)}

    def _plain_size(self, image: Image.Image | Crop) -> tuple[int, int] | None:
        """Width and height that an image is resized to, if that is all that happens to its shape."""
        processor = self.image_processor
        if not _has_usual_steps(processor) or image.mode != "RGB":
            return None
        size, crop = processor.size, processor.crop_size
        if size.width and size.height:
            resized = (size.width, size.height)
        elif size.shortest_edge and not size.longest_edge and image.width == image.height and processor.do_center_crop:
            resized = (size.shortest_edge, size.shortest_edge)
        else:
            return None
        return resized if not processor.do_center_crop or (crop.width, crop.height) == resized else None

    def _plain(self, images: Sequence[Image.Image | Crop], size: tuple[int, int]) -> Tensor:
        processor = self.image_processor
        resized = np.stack([np.asarray(_cut(image).resize(size, processor.resample)) for image in images])
        channels_first = np.ascontiguousarray(resized.transpose(0, 3, 1, 2))
        # As the library: to float64, scaled, to float32, and only then the mean and deviation of each channel.
        pixels = (channels_first.astype(np.float64) * processor.rescale_factor).astype(np.float32)
        mean, std = (
            np.array(values, dtype=np.float32).reshape(-1, 1, 1)
            for values in (processor.image_mean, processor.image_std)
        )
        pixels -= mean
        pixels /= std
        return torch.from_numpy(pixels)


def _has_usual_steps(processor: Any) -> bool:
    """Whether an image processor resizes, rescales and normalizes as the library's base class does it, and no more."""
    return (
        isinstance(processor, PilBackend)
        and all(getattr(type(processor), step) is getattr(PilBackend, step) for step in _STEPS)
        and bool(processor.do_resize and processor.do_rescale and processor.do_normalize)
        and not processor.do_pad
        and processor.resample is not None
        and processor.size is not None
    )


__all__ = ["Crop", "ImagePreparation"]
