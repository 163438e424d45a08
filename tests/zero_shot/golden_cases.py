"""Reads golden cases of the released WCA code; `tests/fixtures/golden_wca/README.md` describes them."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from transformers_groma.zero_shot import CrossAlignmentClassifier
from transformers_groma.zero_shot.dual_encoder import DualEncoder
from transformers_groma.zero_shot.rgb_images import read_rgb
from transformers_groma.zero_shot.view_features import ViewFeatures, encode_views
from transformers_groma.zero_shot.views import Views


@dataclass
class GoldenCase:
    """A case: what the original code was given, what it computed, and an encoder with the same weights."""

    folder: Path
    notes: dict[str, Any]
    tensors: dict[str, Tensor]
    encoder: DualEncoder

    @property
    def labels(self) -> list[str]:
        return self.notes["classes"]

    @property
    def temperatures(self) -> dict[str, float]:
        return {f"{kind}_temperature": self.notes[f"{kind}_temperature_multiplier"] for kind in ("image", "text")}

    @cached_property
    def images(self) -> list[Image.Image]:
        return [read_rgb(path) for path in sorted(self.folder.glob("image_*.png"))]

    @cached_property
    def views(self) -> list[Views]:
        return [Views.of_kind(boxes, "random") for boxes in self.tensors["crop_boxes_xyxy"]]

    @cached_property
    def features(self) -> ViewFeatures:
        """From the image files and the boxes of the crops."""
        return encode_views(self.encoder, self.images, self.views)

    def classifier(self, **settings: Any) -> CrossAlignmentClassifier:
        """A classifier with the case's labels, descriptions and temperatures."""
        settings = {"descriptions": self.notes["descriptions"], **self.temperatures, **settings}
        return CrossAlignmentClassifier.from_encoder(self.encoder, self.labels, **settings)


def load_golden_case(folder: Path) -> GoldenCase:
    """The case of a folder."""
    notes = json.loads((folder / "case.json").read_text())
    encoder = DualEncoder.from_pretrained(folder / "model", device="cpu")
    return GoldenCase(folder, notes, load_file(folder / "tensors.safetensors"), encoder)
