"""Options of image folders."""

import pytest

from transformers_groma.data.image_folder import (
    FolderOptions,
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "ocr"}, "`task` must be one of"),
        ({"box_format": "yolo"}, "`box_format` must be one of"),
        ({"boxes_of": "seen"}, "`boxes_of` must be one of"),
        ({"questions": 0}, "`questions` must be at least 1"),
        ({"max_regions": 1}, "`max_regions` must be at least 2"),
        ({"evaluation": True}, "`evaluation` needs a task with one kind"),
        ({"wording": "llava"}, "`wording` must be one of groma, glamm, got 'llava'"),
        ({"task": "rec", "evaluation": True, "wording": "glamm"}, "rows to evaluate have the standard question"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        FolderOptions(**options)


def test_options_that_are_left_out():
    assert FolderOptions() == FolderOptions(
        "conversation", "xywh", normalized=False, evaluation=False, questions=8, max_regions=100, seed=0, boxes_of=None
    )


def test_options_at_their_limits():
    options = FolderOptions(questions=1, max_regions=2)
    assert (options.max_boxes, options.schema) == (1, "conversation") and FolderOptions(max_regions=7).max_boxes == 3
    for task in ("region-caption", "rec", "grounding"):
        assert FolderOptions(task, evaluation=True).schema == "evaluation"
        assert FolderOptions(task, boxes_of="stored").schema == "conversation"
    assert FolderOptions("detection", boxes_of="upright").schema == "detection"
