"""Previews of dataset rows: boxes in place, texts with the numbers of their boxes."""

import io

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from transformers_groma.data import rows_preview
from transformers_groma.data.columns import (
    DETECTION_FEATURES,
    image_part,
    phrase_part,
    region_part,
    text_part,
)
from transformers_groma.data.contact_sheet import GAP, TILE
from transformers_groma.data.rows_preview import preview_files, preview_rows
from transformers_groma.visualization import PALETTE


@pytest.fixture
def texts(monkeypatch):
    """The lines under each tile, in order."""
    seen = []
    original = rows_preview.captioned_tile

    def captioned_tile(image, lines):
        seen.append(list(lines))
        return original(image, lines)

    monkeypatch.setattr(rows_preview, "captioned_tile", captioned_tile)
    return seen


def detection_row(image, boxes=()):
    return {"image": image, "image_id": "7", "boxes_xyxy": [list(box) for box in boxes], "source": "coco"}


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **options)
    return {"bytes": buffer.getvalue(), "path": None}


def is_near(pixel, color):
    return np.abs(np.asarray(pixel, int) - color).max() < 40


def test_boxes_are_drawn_where_they_are_in_the_size_of_the_tile():
    # Twice as wide as high: 448x224 on the tile, so that a pixel becomes 4.48.
    sheet = preview_rows([detection_row(Image.new("RGB", (100, 50)), [(10, 20, 90, 40)])], 1)
    scale = TILE / 100
    left, top, right, bottom = (round(GAP + value * scale) for value in (10, 20, 90, 40))
    for x, y in ((left, (top + bottom) // 2), (right - 2, (top + bottom) // 2), ((left + right) // 2, bottom - 2)):
        assert is_near(sheet.getpixel((x + 1, y)), PALETTE[0])
    assert is_near(sheet.getpixel(((left + right) // 2, (top + bottom) // 2)), (0, 0, 0))


def test_a_high_image_fits_and_an_exif_orientation_turns_it():
    exif = Image.Exif()
    exif[0x0112] = 6
    row = detection_row(encoded(Image.new("RGB", (200, 50), "lime"), exif=exif), [(0, 0, 50, 200)])
    sheet = preview_rows([row], 1)
    # Upright it is 50 wide and 200 high: 112x448 on the tile.
    assert is_near(sheet.getpixel((GAP + 56, GAP + 224)), (0, 255, 0))
    assert sheet.getpixel((GAP + 120, GAP + 224)) == (255, 255, 255)


def test_texts_name_boxes_by_their_numbers(texts):
    row = detection_row(Image.new("RGB", (100, 50)), [(1, 1, 20, 20), (30, 1, 50, 20)]) | {
        "source": "vg",
        "messages": [
            {"role": "system", "content": [text_part("Be brief.")]},
            {"role": "user", "content": [image_part(), text_part("What is "), region_part(1), text_part("?")]},
            {"role": "assistant", "content": [phrase_part("two dogs", [0, 1]), text_part(".")]},
        ],
    }
    preview_rows([row], 1)
    assert texts == [["7  (vg, 2 boxes)", "system: Be brief.", "? What is [1]?", "   two dogs [0][1]."]]


def test_targets_and_references_of_evaluation_rows(texts):
    row = detection_row(Image.new("RGB", (100, 100))) | {
        "messages": [{"role": "user", "content": [image_part(), text_part("Where?")]}],
        "references": ["a cup"],
        "target_boxes_xyxy": [[20, 20, 80, 80]],
        "category": "",
    }
    sheet = preview_rows([row], 1)
    assert texts == [["7  (coco, 1 target)", "? Where?", " = a cup"]]
    assert is_near(sheet.getpixel((GAP + round(20 * TILE / 100) + 1, GAP + TILE // 2)), PALETTE[2])
    texts.clear()
    preview_rows([row | {"boxes_xyxy": [[1, 1, 9, 9]], "target_boxes_xyxy": [[20, 20, 80, 80]] * 2}], 1)
    assert texts[0][0] == "7  (coco, 1 box, 2 targets)"


def test_rows_without_an_image_and_with_half_of_one(texts):
    whole = encoded(Image.effect_noise((64, 64), 90))
    half = {"bytes": whole["bytes"][: len(whole["bytes"]) // 2], "path": None}
    preview_rows([detection_row(None), detection_row(half, [(1, 1, 20, 20)])], 2)
    assert texts[0] == ["7  (coco, 0 boxes)", "(no image)"]
    assert texts[1][1].startswith("(image cannot be decoded: ")


def test_no_rows_is_an_error():
    with pytest.raises(ValueError, match="no rows"):
        preview_rows([], 3)


def test_files_are_read_in_order_and_only_as_far_as_needed(tmp_path, texts):
    paths = []
    for number in range(3):
        rows = [
            detection_row(encoded(Image.new("RGB", (8, 8))), [(0, 0, 4, 4)]) | {"image_id": f"{number}-{index}"}
            for index in range(2)
        ]
        paths.append(tmp_path / f"{number}.parquet")
        Dataset.from_list(rows, features=DETECTION_FEATURES).to_parquet(paths[-1])
    paths.append(tmp_path / "missing.parquet")
    preview_files(paths, 3)
    assert [lines[0].split()[0] for lines in texts] == ["0-0", "0-1", "1-0"]
