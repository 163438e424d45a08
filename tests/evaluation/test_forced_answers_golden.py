"""Referring segmentation with given answers, as the original measures it: its ids, its masks, its overlaps."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from transformers_groma.evaluation import forced_answers
from transformers_groma.evaluation.benchmark import Asking
from transformers_groma.evaluation.benchmarks import glamm_segmentation
from transformers_groma.evaluation.forced_answers import ForcedSegmentationRespondent
from transformers_groma.evaluation.loading import load_model
from transformers_groma.evaluation.metrics.referring_segmentation import ious_of_overlaps, mask_overlaps
from transformers_groma.loading_options import LoadingOptions
from transformers_groma.masks import mask_to_rle, rle_to_mask
from transformers_groma.models.glamm.convert_glamm_checkpoint import convert_glamm_checkpoint

GOLDEN = Path(__file__).parents[3] / "shared" / "golden_glamm"
# The original has one id in the place of the image.
IMAGE = -200


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The original's weights in our format, loaded as `groma evaluate` does."""
    if not GOLDEN.is_dir():
        pytest.skip("there is no shared/golden_glamm beside the checkout")
    output = tmp_path_factory.mktemp("golden") / "glamm"
    convert_glamm_checkpoint(GOLDEN / "legacy_checkpoint", output, GOLDEN / "clip_tiny")
    return load_model(output, options=LoadingOptions(dtype="float32"))


@pytest.fixture(scope="module")
def case(model):
    known = json.loads((GOLDEN / "case_refseg_eval.json").read_text())
    return known | load_file(GOLDEN / "case_refseg_eval.safetensors")


@pytest.fixture
def rows(case, monkeypatch) -> list[dict]:
    """The two expressions of the case, in the wording that the original drew for it."""
    monkeypatch.setattr(forced_answers, "SEGMENTATION_QUESTIONS", ("Can you segment the {} in this image?",))
    monkeypatch.setattr(forced_answers, "SEGMENTATION_ANSWERS", ("Sure, {}.",))
    pixels = load_file(GOLDEN / "case_inputs.safetensors")[f"image_{case['image']}"]
    expressions = ["The man in red", "a car "]
    row = {"image": Image.fromarray(pixels.numpy()), "image_id": "B", "source": "refcoco", "expressions": expressions}
    masks = [mask_to_rle(mask) for mask in case["gt_masks"].numpy().astype(bool)]
    return [
        {**row, "index": turn, "turn": turn, "target_masks": [masks[turn]], "target_boxes_xyxy": [[0, 0, 1, 1]]}
        for turn in range(2)
    ]


def test_the_text_is_that_of_the_original(model, case, rows):
    respondent = ForcedSegmentationRespondent(*model, Asking())
    [ids] = respondent.prepare(rows).inputs["input_ids"].tolist()
    first = ids.index(model[0].config.image_token_id)
    count = model[0].config.num_image_tokens
    assert set(ids[first : first + count]) == {model[0].config.image_token_id}
    assert [*ids[:first], IMAGE, *ids[first + count :]] == case["input_ids"][0].tolist()


@pytest.mark.parametrize("batch", [1, 2])
def test_intersections_and_unions_are_those_of_the_original(model, case, rows, batch):
    respondent = ForcedSegmentationRespondent(*model, Asking())
    answers = [
        answer
        for start in range(0, 2, batch)
        for answer in respondent.answer(respondent.prepare(rows[start : start + batch]))
    ]
    for answer, expected in zip(answers, case["pred_masks"].numpy() > 0, strict=True):
        np.testing.assert_array_equal(rle_to_mask(answer.all_masks[0]), expected)
    intersections, unions = mask_overlaps(
        [answer.all_masks for answer in answers], [row["target_masks"] for row in rows]
    )
    assert intersections.sum() == case["intersection_bg_fg"][1] == 5948
    assert unions.sum() == case["union_bg_fg"][1] == 32164
    # The original adds 1e-5 to each union.
    ious = ious_of_overlaps(intersections, unions)
    assert ious.sum() == pytest.approx(case["sum_iou_bg_fg"][1], abs=1e-6)
    scores = glamm_segmentation.RELEASE_BENCHMARK.score(answers, rows)
    assert scores == {"ciou": 5948 / 32164, "giou": ious.mean()}
