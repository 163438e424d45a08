"""Answers as they are kept in a file."""

import json

import numpy as np
import pytest
import torch

from transformers_groma.evaluation.predictions import Prediction
from transformers_groma.grounding import ground_text
from transformers_groma.masks import mask_to_rle
from transformers_groma.regions import Regions

BOXES = torch.tensor([[0.1, 0.2, 10.3, 20.7], [1.0, 2.0, 3.0, 4.0]])
# A line as earlier versions wrote it, with all digits of float32.
LINE = (
    '{"index": 3, "image_id": "7", "text": "a dog, a cat", "phrases": [{"text": "a dog", "boxes_xyxy": '
    "[[0.10000000149011612, 0.20000000298023224, 10.300000190734863, 20.700000762939453], [1.0, 2.0, 3.0, 4.0]], "
    '"scores": [0.8999999761581421, 0.5]}, {"text": "a cat", "boxes_xyxy": [[1.0, 2.0, 3.0, 4.0]], "scores": [0.5]}], '
    '"markup": "<p>a dog</p> <roi><r0><r1></roi>, <p>a cat</p> <roi><r1></roi>"}'
)


def test_an_answer_is_written_as_ever_and_read_back():
    answer = ground_text(json.loads(LINE)["markup"], BOXES, torch.tensor([0.9, 0.5]))
    prediction = Prediction.of(3, "7", answer)
    assert json.dumps(prediction.to_dict()) == LINE
    kept = Prediction.from_dict(json.loads(LINE))
    assert kept == prediction and json.dumps(kept.to_dict()) == LINE
    assert [(text, len(regions)) for text, regions in kept.phrases] == [("a dog", 2), ("a cat", 1)]


@pytest.mark.parametrize("numbers", [[1e-7, 0.1, 0.30000000000000004, 640.0], [1 / 3, 2 / 3, 5.1, 17]])
def test_no_digit_is_lost(numbers):
    phrase = {"text": "", "boxes_xyxy": [[float(value) for value in numbers]], "scores": [1 / 3]}
    record = {"index": 0, "image_id": "7", "text": "", "phrases": [phrase], "markup": ""}
    assert json.dumps(Prediction.from_dict(record).to_dict()) == json.dumps(record)


def test_phrases_without_regions_stay():
    record = {"index": 0, "image_id": "7", "text": "", "markup": ""}
    record["phrases"] = [{"text": "queries", "boxes_xyxy": [], "scores": []}]
    prediction = Prediction.from_dict(record)
    assert prediction.to_dict() == record and prediction.boxes_xyxy == prediction.scores == []


def test_predictions_are_equal_where_the_same_is_written():
    def prediction(score: float, index: int = 0) -> Prediction:
        return Prediction(index, "7", "", [("", Regions(np.array([[0.0, 0, 4, 4]]), np.array([score])))], "")

    assert prediction(0.5) == prediction(0.5)
    assert prediction(0.5) != prediction(0.25) and prediction(0.5) != prediction(0.5, 1) and prediction(0.5) != "0.5"


MASKS = np.zeros((2, 30, 20), bool)
MASKS[0, :20, :10], MASKS[1, 2:4, 1:3] = True, True


def test_masks_are_written_as_rle_and_read_back():
    answer = ground_text(json.loads(LINE)["markup"], BOXES, torch.tensor([0.9, 0.5]))
    prediction = Prediction.of(3, "7", answer.with_masks(dict(enumerate(MASKS))))
    dog, cat = map(mask_to_rle, MASKS)
    assert prediction.masks_of_phrases() == [[dog, cat], [cat]] and prediction.all_masks == [dog, cat, cat]
    assert all(regions.masks is None for _, regions in prediction.phrases)  # decoded, they would fill the memory
    record = json.loads(json.dumps(prediction.to_dict()))
    assert [phrase.pop("masks") for phrase in record["phrases"]] == [[dog, cat], [cat]]
    assert record == json.loads(LINE)  # and nothing else is different
    assert Prediction.from_dict(prediction.to_dict()) == prediction != Prediction.of(3, "7", answer)


def test_answers_without_masks_say_so():
    prediction = Prediction.from_dict(json.loads(LINE))
    with pytest.raises(ValueError, match="Prediction 3 has no masks"):
        _ = prediction.all_masks
    # Some phrases may have masks: queries have none.
    some = Prediction(0, "7", "", prediction.phrases, "", [None, [mask_to_rle(MASKS[1])]])
    assert Prediction.from_dict(some.to_dict()).masks == [None, [mask_to_rle(MASKS[1])]]
    with pytest.raises(ValueError, match="has no masks"):
        some.masks_of_phrases()
    # An answer that names nothing has all of its masks.
    assert Prediction(0, "7", "Nothing.", [], "").all_masks == []


def test_every_region_has_its_mask():
    record = json.loads(LINE)
    record["phrases"][0]["masks"] = [mask_to_rle(MASKS[0])]
    with pytest.raises(ValueError, match="one mask for each of the 2 regions of 'a dog', got 1"):
        Prediction.from_dict(record)


@pytest.mark.parametrize("change", [{"scores": [0.5]}, {"scores": None}, {"boxes_xyxy": [[1, 2]]}, {"text": "only"}])
def test_another_layout_is_an_error(change):
    record = json.loads(LINE)
    phrase = record["phrases"][0]
    record["phrases"][0] = change if "text" in change else phrase | change
    with pytest.raises((KeyError, TypeError, ValueError)):
        Prediction.from_dict(record)
