"""Makes the images of docs/masks.md and docs/glamm.md: captions with masks by both tiny models, and what clicks mean.

python -m scripts.mask_images
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from transformers_groma import ImageGroundingPipeline, Regions, draw_boxes

REPOSITORY = Path(__file__).parents[1]
IMAGES = REPOSITORY / "docs" / "images"
CAPTION, CLICKS, GLAMM = (IMAGES / name for name in ("masks.png", "clicks.png", "glamm.png"))
# The points and lines of docs/masks.md, with a colour for what is on the object and one for what is not.
POINTED = (
    {"point": [311, 371]},
    {"points": [[311, 371], [230, 250]], "labels": [1, 0]},
    {"scribble": [[296, 372], [311, 371], [326, 374]]},
)
ON, OFF = (0, 158, 115), (213, 94, 0)
RADIUS, GAP = 6, 8


def caption_image(groma: ImageGroundingPipeline, image: Image.Image) -> Image.Image:
    """A caption whose phrases have masks."""
    return groma.caption(image, masks=True).draw(image)


def click_panels(groma: ImageGroundingPipeline, image: Image.Image) -> Image.Image:
    """Four panels: what a user draws, each with the resulting mask; the last is a mask that the user gave."""
    panels = []
    for region in POINTED:
        panels.append(draw_masks(image, groma.segment(image, region)))
        draw_pointed(panels[-1], region)
    panels.append(draw_masks(image, groma.segment(image, "the large red star")))
    width, height = (side + GAP for side in panels[0].size)
    grid = Image.new("RGB", (2 * width - GAP, 2 * height - GAP), "white")
    for index, panel in enumerate(panels):
        grid.paste(panel, (index % 2 * width, index // 2 * height))
    return grid


def draw_masks(image: Image.Image, regions: Regions) -> Image.Image:
    """The image with masks, without labels."""
    return draw_boxes(image, Regions(regions.xyxy, masks=regions.masks))


def draw_pointed(panel: Image.Image, region: dict) -> None:
    """Draw the points or the line of a region onto a panel."""
    drawing = ImageDraw.Draw(panel)
    if line := region.get("scribble"):
        drawing.line([tuple(point) for point in line], fill=ON, width=RADIUS, joint="curve")
        return
    points: Sequence[Sequence[float]] = region.get("points") or [region["point"]]
    labels = region.get("labels") or [1] * len(points)
    for (x, y), label in zip(points, labels, strict=True):
        for radius, color in ((RADIUS + 2, "white"), (RADIUS, ON if label else OFF)):
            drawing.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)


def mask_images() -> dict[Path, Image.Image]:
    """All images, by the files that they are kept in.

    Returns:
        `dict[Path, PIL.Image.Image]`: RGB.
    """
    groma, glamm = (
        ImageGroundingPipeline.from_pretrained(str(REPOSITORY / "hub_configs" / name))
        for name in ("groma-tiny", "glamm-tiny")
    )
    with Image.open(IMAGES / "scene.png") as scene:
        image = scene.convert("RGB")
    return {
        CAPTION: caption_image(groma, image),
        CLICKS: click_panels(groma, image),
        GLAMM: caption_image(glamm, image),
    }


if __name__ == "__main__":
    for path, drawn in mask_images().items():
        drawn.save(path, optimize=True)
