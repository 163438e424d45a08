"""Makes the image of docs/zero-shot.md: what decides a label, among random squares and among the regions of a Groma.

    python -m scripts.shapes_clip.train shapes-clip    # about 25 minutes
    python -m scripts.zero_shot_image shapes-clip

Its encoder only knows drawn shapes. It says nothing about photos, nor about how often it is right.
"""

import argparse
from pathlib import Path

from PIL import Image

from transformers_groma.zero_shot.classifier import CrossAlignmentClassifier
from transformers_groma.zero_shot.dual_encoder import DualEncoder
from transformers_groma.zero_shot.region_views import RegionViews

from .shapes_clip.scenes import CLASSES, Layout, ObjectClass, make_cluttered_scene
from .shapes_clip.texts import descriptions

REPOSITORY = Path(__file__).parents[1]
IMAGE = REPOSITORY / "docs" / "images" / "zero-shot.png"
PROPOSER = REPOSITORY / "hub_configs" / "groma-tiny"
# One scene, not chosen by its outcome: the first one of this class.
MAIN = ObjectClass("striped", "blue", "star")
LAYOUT = Layout(main_sides=(0.35, 0.6), clutter=(6, 12))
PLACES, GAP = 4, 16


def zero_shot_image(encoder: DualEncoder) -> Image.Image:
    """One image classified twice, with random squares on the left and regions on the right.

    Args:
        encoder (`DualEncoder`): shapes-clip.

    Returns:
        `PIL.Image.Image`: RGB.
    """
    image = make_cluttered_scene("test", 0, LAYOUT, MAIN).image
    texts = descriptions(CLASSES)
    proposer = RegionViews.from_pretrained(PROPOSER, device="cpu")
    panels = []
    for views in ("random", "regions"):
        classifier = CrossAlignmentClassifier.from_encoder(
            encoder,
            list(texts),
            texts,
            views=views,
            proposer=proposer if views == "regions" else None,
        )
        (result,) = classifier.classify([image], explain=True)
        panels.append(result.draw(image, places=PLACES))
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    joined = Image.new("RGB", (width, max(panel.height for panel in panels)), "white")
    left = 0
    for panel in panels:
        joined.paste(panel, (left, 0))
        left += panel.width + GAP
    return joined


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Makes the image of docs/zero-shot.md.")
    parser.add_argument("encoder", help="folder of shapes-clip, as scripts.shapes_clip.train writes it")
    parser.add_argument("--output", type=Path, default=IMAGE)
    given = parser.parse_args()
    zero_shot_image(DualEncoder.from_pretrained(given.encoder, device="cpu")).save(given.output, optimize=True)
