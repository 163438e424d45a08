"""COCO's sizes of objects: small, medium and large, by their area in the original image."""

import numpy as np

# From and up to this many square pixels.
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}

__all__ = ["SIZES"]
