"""The image of docs/app.md can be made again, and is small."""

import numpy as np
import pytest
from PIL import Image


@pytest.mark.slow
def test_the_image_shows_the_app_as_it_is():
    pytest.importorskip("gradio", reason='needs gradio: pip install "transformers-groma[app]"')
    pytest.importorskip("playwright.sync_api", reason="needs a browser: pip install playwright")
    from scripts.app_image import IMAGE, app_image

    made = app_image()
    with Image.open(IMAGE) as image:
        assert image.size == made.size
        # Fonts differ between machines.
        pair = [np.asarray(one.convert("L"), np.float32) for one in (image, made)]
        assert np.abs(pair[0] - pair[1]).mean() < 6
    assert IMAGE.stat().st_size <= 200_000
