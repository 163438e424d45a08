"""Groma's image processor on torchvision; without torchvision it is the PIL one."""

from transformers.utils import is_torchvision_available

from ...images import ImageReadingMixin
from ..image_values import prepare_values
from .image_processing_pil_groma import GromaDetectionPostProcessing, GromaImageProcessorPil

if is_torchvision_available():
    import torch
    from transformers.image_processing_backends import TorchvisionBackend
    from transformers.image_utils import (
        IMAGENET_DEFAULT_MEAN,
        IMAGENET_DEFAULT_STD,
        ChannelDimension,
        ImageInput,
        PILImageResampling,
    )

    class GromaImageProcessor(ImageReadingMixin, GromaDetectionPostProcessing, TorchvisionBackend):
        """Same as `GromaImageProcessorPil`, in batches and on any device. Pixels differ a little in resizing.

        Returns `pixel_values` of shape `(B, 3, height, width)`.

        Raises:
            TypeError: for something that is not an image.
        """

        do_convert_rgb = True
        do_resize = True
        size = {"height": 448, "width": 448}
        resample = PILImageResampling.BICUBIC
        do_rescale = True
        do_normalize = True
        image_mean = IMAGENET_DEFAULT_MEAN
        image_std = IMAGENET_DEFAULT_STD

        def process_image(
            self,
            image: ImageInput,
            do_convert_rgb: bool | None = None,
            input_data_format: str | ChannelDimension | None = None,
            device: "torch.device | None" = None,
            **kwargs,
        ) -> "torch.Tensor":
            """One image as a tensor of shape `(channels, height, width)`, upright and in RGB if so configured."""
            image = prepare_values(image, **kwargs)
            return super().process_image(image, do_convert_rgb, input_data_format, device, **kwargs)

else:
    GromaImageProcessor = GromaImageProcessorPil

__all__ = ["GromaImageProcessor"]
