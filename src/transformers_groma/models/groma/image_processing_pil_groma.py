"""Groma's image processor on PIL and NumPy, which runs everywhere."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
)

from ...boxes import boxes_in_pixels, finite_slots
from ...images import ImageReadingMixin
from ..image_values import prepare_values


class GromaDetectionPostProcessing:
    """What both image processors do with a detector's output; `pipeline("object-detection")` calls it."""

    def post_process_object_detection(
        self,
        outputs: Any,
        threshold: float = 0.5,
        target_sizes: Sequence[tuple[int, int]] | torch.Tensor | None = None,
    ) -> list[dict[str, torch.Tensor]]:
        """Convert the output of `GromaForRegionProposal` to the form of the library's detectors.

        All queries are looked at. `model.propose_regions` is what a Groma model points at: after its own score
        threshold, which is lower, and NMS.

        Args:
            outputs (`GromaRegionProposalOutput`): `logits` `(B, Q, 1)` and `pred_boxes` `(B, Q, 4)`, normalized
                `cxcywh`.
            threshold (`float`): boxes need a higher score.
            target_sizes (`Tensor` of shape `(B, 2)` or `list` of B `(height, width)`, *optional*): sizes of the
                upright images in pixels. Without it boxes stay fractions (0..1) of the image size.

        Returns:
            `list[dict]`: for each image, best first, `scores` `(n,)`, `labels` `(n,)`, all 0 ("region"), and `boxes`
            `(n, 4)`, `xyxy` inside the image. A query whose score or box is not finite is not a detection.

        Raises:
            ValueError: if `target_sizes` does not have one entry for each image.

        Example:
        >>> from types import SimpleNamespace
        >>> outputs = SimpleNamespace(logits=torch.zeros(1, 1, 1), pred_boxes=torch.tensor([[[0.5, 0.5, 0.25, 1.0]]]))
        >>> GromaImageProcessorPil().post_process_object_detection(outputs, 0.4, [(100, 200)])[0]["boxes"].tolist()
        [[75.0, 0.0, 125.0, 100.0]]
        """
        logits, pred_boxes = outputs.logits.detach().float(), outputs.pred_boxes.detach().float()
        if target_sizes is not None and len(target_sizes) != len(logits):
            raise ValueError(
                f"`target_sizes` must have one (height, width) for each image: got {len(target_sizes)} for "
                f"{len(logits)}."
            )
        scores, labels = logits.sigmoid().max(dim=-1)
        found = finite_slots(pred_boxes, scores > threshold)
        results = []
        for index, order in enumerate(scores.argsort(dim=-1, descending=True, stable=True)):
            kept = order[found[index, order]]
            size = (1, 1) if target_sizes is None else (float(side) for side in target_sizes[index])
            boxes = boxes_in_pixels(pred_boxes[index, kept], *size)
            results.append({"scores": scores[index, kept], "labels": labels[index, kept], "boxes": boxes})
        return results


class GromaImageProcessorPil(ImageReadingMixin, GromaDetectionPostProcessing, PilBackend):
    """Resizes images to the square that the vision encoder takes and normalizes them; the aspect ratio is not kept.

    PIL images are turned upright by their EXIF tag first. Grey, palette, CMYK, transparent (on white) and 16-bit
    images become RGB. Arrays and tensors are scaled by their type, see [`to_upright_8_bit`]: floats run from 0 to 1.
    Of several frames the first is used. Returns `pixel_values` of shape `(B, 3, height, width)`.

    Raises:
        TypeError: for something that is not an image.
        ImageTooLargeError: for an image with more than `MAX_IMAGE_PIXELS` pixels, see `images.py`.

    Example:
    >>> from PIL import Image
    >>> processor = GromaImageProcessorPil()
    >>> tuple(processor(Image.new("RGB", (640, 480)), return_tensors="pt")["pixel_values"].shape)
    (1, 3, 448, 448)
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
        **kwargs,
    ) -> np.ndarray:
        """Convert an image to an array `(channels, height, width)`, upright, and RGB if so configured."""
        image = prepare_values(image, **kwargs)
        return super().process_image(image, do_convert_rgb, input_data_format, **kwargs)


__all__ = ["GromaImageProcessorPil"]
