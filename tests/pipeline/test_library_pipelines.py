"""Groma in the library's own pipelines, "image-text-to-text" and "object-detection"."""

import logging

import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForObjectDetection,
    pipeline,
)

from tests.tiny import tiny_detector
from transformers_groma import GromaImageProcessor

# ----------------------------------------------------------------------------------------------- image-text-to-text


@pytest.fixture(scope="module")
def stock_pipe(pipe):
    return pipeline("image-text-to-text", model=pipe.model, processor=pipe.processor, device="cpu")


@pytest.fixture
def chat(photos):
    return [{"role": "user", "content": [{"type": "image", "image": photos[0]}, {"type": "text", "text": "Hi"}]}]


def test_stock_pipeline_answers_chats(stock_pipe, pipe, chat, photos):
    expected = pipe(photos[0], "Hi").markup
    assert stock_pipe(text=chat, max_new_tokens=5, return_full_text=False)[0]["generated_text"] == expected
    full = stock_pipe(text=chat, max_new_tokens=5, return_full_text=True)[0]["generated_text"]
    assert full == [*chat, {"role": "assistant", "content": expected}]


def test_stock_pipeline_in_batches(stock_pipe, pipe, chat, photos):
    other = [
        {"role": "user", "content": [{"type": "image", "image": photos[1]}, {"type": "text", "text": "And this one?"}]}
    ]
    results = stock_pipe(text=[chat, other], max_new_tokens=5, return_full_text=False, batch_size=2)
    assert [result[0]["generated_text"] for result in results] == [
        pipe(photos[0], "Hi").markup,
        pipe(photos[1], "And this one?").markup,
    ]


def test_stock_pipeline_continues_an_answer(stock_pipe, chat):
    begun = [*chat, {"role": "assistant", "content": [{"type": "text", "text": "It is"}]}]
    added = stock_pipe(text=begun, max_new_tokens=5, return_full_text=False)[0]["generated_text"]
    full = stock_pipe(text=begun, max_new_tokens=5)[0]["generated_text"]
    assert full[-1]["content"][0]["text"] == "It is" + added


def test_stock_pipeline_with_image_and_text(stock_pipe, pipe, photos):
    result = stock_pipe(photos[0], text="Hi", max_new_tokens=5, return_full_text=False)
    assert result[0]["generated_text"] == pipe(photos[0], "Hi").markup


def test_stock_pipeline_with_text_alone(stock_pipe):
    result = stock_pipe(text=[{"role": "user", "content": "Hello"}], max_new_tokens=5, return_full_text=False)
    assert isinstance(result[0]["generated_text"], str)


# ------------------------------------------------------------------------------------------------- object-detection


@pytest.fixture(scope="module")
def detector_dir(tmp_path_factory):
    """A detector and its image processor, as stage 1 saves them."""
    detector = tiny_detector().train()
    folder = tmp_path_factory.mktemp("detector")
    detector.save_pretrained(folder)
    GromaImageProcessor(size={"height": 56, "width": 56}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detection_pipe(detector_dir):
    return pipeline("object-detection", model=str(detector_dir), device="cpu")


def test_object_detection_finds_the_queries_in_pixels_of_each_image(detection_pipe, detector_dir, photos):
    detector = AutoModelForObjectDetection.from_pretrained(detector_dir)
    image_processor = AutoImageProcessor.from_pretrained(detector_dir)
    for photo in photos:
        found = detection_pipe(photo, threshold=0.4)
        with torch.no_grad():
            output = detector(**image_processor(photo, return_tensors="pt"))
        scores, order = output.proposer_output.scores[0].sort(descending=True)
        order = order[scores > 0.4]
        assert 0 < len(found) == len(order) < 10
        cx, cy, width, height = output.pred_boxes[0, order].unbind(-1)
        corners = torch.stack([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2], dim=-1).clamp(0, 1)
        pixels = corners * torch.tensor([*photo.size, *photo.size])
        assert [list(entry["box"].values()) for entry in found] == pixels.int().tolist()
        assert [list(entry["box"]) for entry in found] == [["xmin", "ymin", "xmax", "ymax"]] * len(found)
        assert {entry["label"] for entry in found} == {"region"}
        assert [entry["score"] for entry in found] == pytest.approx(scores[scores > 0.4].tolist(), abs=1e-5)


def test_object_detection_in_batches(detection_pipe, photos):
    singles = [detection_pipe(photo, threshold=0.3) for photo in photos]
    for batch_size in (1, 2, 3):
        for answers, single in zip(detection_pipe(photos, threshold=0.3, batch_size=batch_size), singles, strict=True):
            assert [entry["box"] for entry in answers] == [entry["box"] for entry in single]
            assert [entry["score"] for entry in answers] == pytest.approx(
                [entry["score"] for entry in single], abs=1e-5
            )


def test_object_detection_from_files_and_with_thresholds(detection_pipe, photos, tmp_path):
    photos[1].save(tmp_path / "photo.png")
    assert detection_pipe(str(tmp_path / "photo.png"), threshold=0.3) == detection_pipe(photos[1], threshold=0.3)
    assert detection_pipe(photos[1]) == detection_pipe(photos[1], threshold=0.5)
    assert len(detection_pipe(photos[1], threshold=0.0)) == 10
    assert detection_pipe(photos[1], threshold=1.0) == []
    best = detection_pipe(photos[1], threshold=0.0)[0]["score"]
    assert len(detection_pipe(photos[1], threshold=best)) == 0


def test_the_object_detection_pipeline_knows_the_detector(detector_dir, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    pipeline("object-detection", model=str(detector_dir), device="cpu")
    assert "not supported" not in caplog.text
