"""GLaMM's image processor on torchvision; without torchvision it is the PIL one."""

from typing import Any

from transformers.utils import is_torchvision_available

from ...images import ImageReadingMixin
from ..image_values import prepare_values
from .image_processing_pil_glamm import GlammImageProcessorPil, GlammViews

if is_torchvision_available():
    import torch
    from transformers.image_processing_backends import TorchvisionBackend
    from transformers.image_utils import ChannelDimension, ImageInput

    class GlammImageProcessor(GlammViews, ImageReadingMixin, TorchvisionBackend):
        """Same as `GlammImageProcessorPil`, on any device. Pixels differ a little in resizing.

        Returns `pixel_values`, `grounding_pixel_values` and `grounding_sizes`.

        Raises:
            TypeError: for something that is not an image.
        """

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

        def _scaled(
            self,
            view: "torch.Tensor",
            mean: Any,
            std: Any,
            do_rescale: bool,
            rescale_factor: float,
            do_normalize: bool,
            **kwargs,
        ) -> "torch.Tensor":
            """The values as the model takes them."""
            return self.rescale_and_normalize(view, do_rescale, rescale_factor, do_normalize, mean, std)

else:
    GlammImageProcessor = GlammImageProcessorPil

__all__ = ["GlammImageProcessor"]
