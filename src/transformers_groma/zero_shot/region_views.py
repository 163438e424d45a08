"""Views where a Groma proposes regions, or where the caller points: squares around their boxes."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..boxes import prepare_user_boxes
from ..detector_loading import load_detector
from ..image_inputs import image_size
from ..loading_options import AS_SAVED, LoadingOptions
from ..model_files import PROPOSING_MODELS
from ..regions import Regions, regions_of_slots, with_extent
from .region_squares import CONTEXT, distinct_squares, squares_of_boxes
from .views import check_count

# As many as the random squares of the paper.
REGION_COUNT = 60
# Images that go through the detector together.
PROPOSER_BATCH = 8


class RegionViews:
    """Looks where a Groma, or the detector of its first training stage, proposes regions.

    Only the vision encoder and the region proposer run. [`RegionViews.from_pretrained`] loads nothing else.

    Args:
        model (`GromaForRegionProposal` or `GromaForConditionalGeneration`): put into evaluation mode.
        processor (`GromaProcessor` or image processor): its processor.
        region_count (`int`): most views of an image.
        context (`float`): side of a view as a multiple of the longer side of its box; see [`squares_of_boxes`].
        batch_size (`int`): images that go through the detector together.

    Raises:
        ValueError: a model that proposes no regions, such as a GLaMM, or a number out of range.

    Example:
    >>> from PIL import Image
    >>> from transformers_groma.zero_shot.region_views import RegionViews
    >>> proposer = RegionViews.from_pretrained("hub_configs/groma-tiny", device="cpu")
    >>> (squares,) = proposer([Image.open("docs/images/scene.png")])
    >>> squares[0].tolist()  # xyxy in pixels, the best one first
    [275, 333, 353, 411]
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        region_count: int = REGION_COUNT,
        context: float = CONTEXT,
        batch_size: int = PROPOSER_BATCH,
    ) -> None:
        model_type = getattr(getattr(model, "config", None), "model_type", None)
        if model_type not in PROPOSING_MODELS:
            what = f"A {type(model).__name__}" + (f" of type {model_type!r}" if model_type else "")
            raise ValueError(
                f"{what} proposes no regions. Pass a Groma or its detector, or the boxes of another detector as "
                "`boxes`."
            )
        for name, value in (("region_count", region_count), ("batch_size", batch_size)):
            check_count(value, name)
        squares_of_boxes([], (1, 1), context)  # refuses a context that is not one
        self.model = model.eval()
        self.image_processor = getattr(processor, "image_processor", processor)
        self.region_count, self.context, self.batch_size = region_count, context, batch_size

    @classmethod
    def from_pretrained(
        cls,
        model: str | PathLike[str],
        device: str | torch.device | None = None,
        options: LoadingOptions = AS_SAVED,
        **kwargs: Any,
    ) -> "RegionViews":
        """Load what proposes regions: of a whole Groma the vision encoder and the region proposer alone.

        Args:
            model (`str` or path): folder or Hub name of a Groma, of its detector, or of an adapter of a Groma.
            device (`str` or `torch.device`, *optional*): the best one available by default.
            options (`LoadingOptions`): revision, dtype and attention.
            **kwargs: of the constructor.

        Raises:
            OSError, ValueError: see [`load_detector`].
        """
        return cls(*load_detector(model, device, options), **kwargs)

    @torch.no_grad()
    def regions(self, images: Sequence[Image.Image]) -> list[Regions]:
        """The regions that the model proposes, best first.

        Args:
            images (`Sequence[PIL.Image.Image]`): upright images.

        Returns:
            `list[Regions]`: those of each image; none where it finds nothing.
        """
        found: list[Regions] = []
        for start in range(0, len(images), self.batch_size):
            some = list(images[start : start + self.batch_size])
            pixel_values = self.image_processor(images=some, return_tensors="pt")["pixel_values"]
            proposals = self.model.propose_regions(pixel_values.to(self.model.device))
            sizes = [image_size(image) for image in some]
            found += regions_of_slots(proposals.boxes, proposals.scores, proposals.mask, sizes)
        return [with_extent(regions) for regions in found]

    def __call__(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """The views of images: squares around what is proposed, best first, no two of them nearly the same.

        Args:
            images (`Sequence[PIL.Image.Image]`): upright images.

        Returns:
            `list[Tensor]`: for each image `(n, 4)`, int64, n at most `region_count`: `xyxy` squares in absolute
            pixels, right and bottom exclusive. An image in which nothing is found has none.
        """
        views = []
        for image, regions in zip(images, self.regions(images), strict=True):
            squares = squares_of_boxes(regions.xyxy, image_size(image), self.context)
            views.append(squares[distinct_squares(squares, regions.scores, self.region_count)])
        return views


def views_of_boxes(
    boxes_xyxy: Regions | Tensor | Sequence[Sequence[float]],
    size: tuple[int, int],
    context: float = CONTEXT,
    name: str = "boxes",
) -> Tensor:
    """The views of the boxes that a caller gives for one image: a square around each, in their order.

    All are kept, also those that are alike: row i is box i.

    Args:
        boxes_xyxy (`Regions`, or array-like of shape `(n, 4)`): `xyxy` boxes in absolute pixels of the upright image.
        size (`(height, width)`): of the upright image.
        context (`float`): see [`squares_of_boxes`].
        name (`str`): how an error names the boxes.

    Returns:
        `Tensor` of shape `(n, 4)`, int64: `xyxy` squares in absolute pixels, right and bottom exclusive.

    Raises:
        ValueError: boxes outside of the image, without area, or that look like fractions.

    Example:
    >>> views_of_boxes([[40, 40, 60, 50]], size=(100, 200), context=1.5).tolist()
    [[35, 30, 65, 60]]
    """
    boxes = boxes_xyxy.xyxy if isinstance(boxes_xyxy, Regions) else boxes_xyxy
    return squares_of_boxes(prepare_user_boxes(boxes, *size, name=name), size, context)


__all__ = ["PROPOSER_BATCH", "REGION_COUNT", "RegionViews", "views_of_boxes"]
