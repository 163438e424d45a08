"""GLaMM's image processor on PIL and NumPy, which runs everywhere: two views of each image.

The global view, for CLIP, is a square: the image squeezed into it, or, as in the released checkpoints, its centre. The
grounding view, for SAM, is the whole image in its own proportions, in the corner of a larger square.
"""

from typing import Any

import numpy as np
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import ImagesKwargs

from ...images import ImageReadingMixin
from ...padded_squares import size_in_square
from ..image_values import prepare_values

# With a longer side of more shorter sides than this, an image loses its ends before it is resized: enlarged, they
# would take more memory than there is, and only the centre is looked at.
_LONG = 64
# What stays of it, in shorter sides: the centre, and on both sides of it more than interpolation looks at.
_KEPT = 3


class GlammImageProcessorKwargs(ImagesKwargs, total=False):
    """Settings besides those of every image processor.

    Args:
        grounding_size (`int`): side of the square of the grounding view.
        grounding_mean (`list[float]`): its mean, by channel.
        grounding_std (`list[float]`): its standard deviation, by channel.
    """

    grounding_size: int
    grounding_mean: tuple[float, ...] | list[float]
    grounding_std: tuple[float, ...] | list[float]


def without_ends(image: Any) -> Any:
    """The middle of a very long image; other images stay as they are.

    Args:
        image (`np.ndarray` or `Tensor` of shape `(channels, height, width)`): an image.

    Returns:
        The same kind of image, with the same centre.

    Example:
    >>> without_ends(np.zeros((3, 10, 1001))).shape, without_ends(np.zeros((3, 10, 500))).shape
    ((3, 10, 31), (3, 10, 500))
    """
    height, width = image.shape[-2:]
    shorter, longer = sorted((height, width))
    if longer <= _LONG * shorter:
        return image
    start = (longer - _KEPT * shorter) // 2
    middle = slice(start, longer - start)
    return image[:, :, middle] if width == longer else image[:, middle]


class GlammViews:
    """What both image processors do: the settings, and the steps from an image to its two views."""

    valid_kwargs = GlammImageProcessorKwargs
    model_input_names = ["pixel_values", "grounding_pixel_values", "grounding_sizes"]

    do_convert_rgb = True
    do_resize = True
    do_center_crop = False
    size = {"height": 336, "width": 336}
    resample = PILImageResampling.BICUBIC
    do_rescale = True
    do_normalize = True
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    grounding_size = 1024
    grounding_mean = IMAGENET_DEFAULT_MEAN
    grounding_std = IMAGENET_DEFAULT_STD

    def _standardize_kwargs(self, **kwargs) -> dict[str, Any]:
        """Also the two means and deviations of the grounding view, as tuples."""
        kwargs = super()._standardize_kwargs(**kwargs)
        for name in ("grounding_mean", "grounding_std"):
            kwargs[name] = tuple(kwargs[name])
        return kwargs

    def _validate_preprocess_kwargs(self, **kwargs) -> None:
        """Check the settings: both views are squares, made of the image as it is."""
        size, side = kwargs["size"], kwargs["grounding_size"]
        if not size or not size.height or size.height != size.width:
            raise ValueError(
                f"`size` must be the side of a square in pixels, such as 336, got {dict(size) if size else size}. "
                "`do_center_crop` says whether the image is squeezed into it or cut."
            )
        if not isinstance(side, int) or side < 1:
            raise ValueError(f"`grounding_size` must be a positive number of pixels, an integer, got {side!r}.")
        for name in ("crop_size", "do_pad", "pad_size"):
            if kwargs.get(name):
                raise ValueError(f"`{name}` is not a setting of GLaMM's images. `size` and `grounding_size` say it.")
        if not kwargs["do_resize"]:
            raise ValueError("`do_resize=False` is not possible: an image is resized to two views of different size.")
        super()._validate_preprocess_kwargs(**{**kwargs, "do_center_crop": False})

    def _preprocess(
        self,
        images: list[Any],
        size: SizeDict,
        resample: Any,
        do_center_crop: bool,
        image_mean: Any,
        image_std: Any,
        grounding_size: int,
        grounding_mean: Any,
        grounding_std: Any,
        return_tensors: str | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Both views of images `(3, height, width)`."""
        rows: dict[str, list[Any]] = {name: [] for name in self.model_input_names}
        for image in images:
            height, width = image.shape[-2:]
            if do_center_crop:
                view = self.resize(without_ends(image), SizeDict(shortest_edge=size.height), resample)
                view = self.center_crop(view, size)
            else:
                view = self.resize(image, size, resample)
            rows["pixel_values"].append(self._scaled(view, mean=image_mean, std=image_std, **kwargs))
            in_square = SizeDict(**dict(zip(("height", "width"), size_in_square(height, width, grounding_size))))
            view = self.resize(image, in_square, PILImageResampling.BILINEAR)
            view = self._scaled(view, mean=grounding_mean, std=grounding_std, **kwargs)
            (view,) = self.pad([view], SizeDict(height=grounding_size, width=grounding_size))
            rows["grounding_pixel_values"].append(view)
            rows["grounding_sizes"].append(np.array([in_square.height, in_square.width], np.int64))
        return BatchFeature(rows, tensor_type=return_tensors)


class GlammImageProcessorPil(GlammViews, ImageReadingMixin, PilBackend):
    """Makes the two views of each image that GLaMM looks at.

    PIL images are turned upright by their EXIF tag first. Grey, palette, CMYK, transparent (on white) and 16-bit
    images become RGB. Arrays and tensors are scaled by their type, see [`to_upright_8_bit`]: floats run from 0 to 1.
    Of several frames the first is used.

    Returns `pixel_values` `(B, 3, size, size)`, `grounding_pixel_values` `(B, 3, grounding_size, grounding_size)`,
    zeros to the right of the image or below it, and `grounding_sizes` `(B, 2)`, int64, the height and width that the
    image takes of it.

    Args:
        size (`int` or `dict`): side of the global view.
        do_center_crop (`bool`): whether the global view is the centre of the image, its shorter side as long as the
            view's, as in the released checkpoints. By default the whole image is squeezed into it.
        grounding_size (`int`): side of the grounding view.
        **kwargs: the settings of every image processor, and `grounding_mean` and `grounding_std`.

    Raises:
        TypeError: for something that is not an image.
        ImageTooLargeError: for an image with more than `MAX_IMAGE_PIXELS` pixels, see `images.py`.

    Example:
    >>> from PIL import Image
    >>> views = GlammImageProcessorPil()(Image.new("RGB", (640, 480)), return_tensors="pt")
    >>> tuple(views["pixel_values"].shape), tuple(views["grounding_pixel_values"].shape)
    ((1, 3, 336, 336), (1, 3, 1024, 1024))
    >>> views["grounding_sizes"].tolist()
    [[768, 1024]]
    """

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs,
    ) -> np.ndarray:
        """Convert an image to an array `(channels, height, width)`, upright, and RGB if so configured."""
        image = prepare_values(image, **kwargs)
        return super().process_image(image, do_convert_rgb, input_data_format, **kwargs)

    def _scaled(
        self,
        view: np.ndarray,
        mean: Any,
        std: Any,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        **kwargs,
    ) -> np.ndarray:
        """The values as the model takes them."""
        view = self.rescale(view, rescale_factor) if do_rescale else view
        return self.normalize(view, mean, std) if do_normalize else view


__all__ = ["GlammImageProcessorKwargs", "GlammImageProcessorPil", "GlammViews"]
