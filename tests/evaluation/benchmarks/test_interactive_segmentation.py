"""Interactive segmentation as a benchmark: clicks reach the model where they belong, and masks are scored."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from transformers_groma import GromaForRegionProposal
from transformers_groma.data.columns import features_of
from transformers_groma.evaluation.benchmarks import interactive_segmentation as benchmark
from transformers_groma.evaluation.predictions import Prediction
from transformers_groma.evaluation.runner import evaluate, read_predictions
from transformers_groma.interior_points import interior_point
from transformers_groma.masks import mask_to_rle, masks_of_logits, rle_to_mask
from transformers_groma.regions import Regions
from transformers_groma.shapes.rows import shapes_dataset

from ...tiny import MASK_DECODER, tiny_detector_config
from ...training.rows import training_model, training_processor
from ..samples import files_in, png

HEIGHT, WIDTH = 48, 64
LOW = 16  # side of the decoder's masks


def filled(x1: int, y1: int, x2: int, y2: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def detection_row(*masks: np.ndarray | None, **columns) -> dict:
    return {
        "image": png(),
        "image_id": "7",
        "boxes_xyxy": [[0.0, 0.0, 9.0, 9.0]] * len(masks),
        "source": "coco",
        "masks": [None if mask is None else mask_to_rle(mask) for mask in masks],
        **columns,
    }


def rows_of(*rows: dict) -> Dataset:
    return Dataset.from_list(list(rows), features=features_of(rows[0], "detection"))


def asked(*masks: np.ndarray | None, index: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> dict:
    return detection_row(*masks, index=index, image=Image.new("RGB", size))


class Painter:
    """A model whose mask covers the square of 4 x 4 low-resolution pixels around each click on the object.

    Clicks that are not on it take their square away. It keeps what it was given.
    """

    def __init__(self, outputs: int = 0) -> None:
        self.device = torch.device("cpu")
        self.config = SimpleNamespace(mask_decoder_config=SimpleNamespace(num_multimask_outputs=outputs))
        self.calls: list[dict] = []
        self.looks = 0

    def eval(self):
        return self

    def get_image_features(self, pixel_values):
        self.looks += 1
        return len(pixel_values)

    def mask_embedding(self, features):
        return features

    def segment(self, features, *, points, point_labels, masks, multimask, embedding):
        assert features == embedding == len(points)
        before = None if masks is None else masks.clone()
        self.calls.append({"labels": point_labels.clone(), "masks": before, "multimask": multimask})
        logits = torch.full((*points.shape[:2], LOW, LOW), -4.0)
        for image, number, place in (point_labels >= 0).nonzero().tolist():
            x, y = (points[image, number, place] * LOW).long().tolist()
            value = 4.0 if point_labels[image, number, place] == 1 else -4.0
            logits[image, number, max(y - 2, 0) : y + 2, max(x - 2, 0) : x + 2] = value
        several = self.config.mask_decoder_config.num_multimask_outputs if multimask else 1
        # The best of several is the last.
        every = torch.full((*points.shape[:2], several, LOW, LOW), -4.0)
        every[:, :, -1] = logits
        quality = torch.arange(several, dtype=torch.float32).expand(*points.shape[:2], several)
        return SimpleNamespace(logits=every, quality=quality, mask=(point_labels >= 0).any(dim=-1))


def respondent(model) -> benchmark.ClickRespondent:
    return benchmark.ClickRespondent(model, training_processor())


def clicked(model, *rows: dict) -> list[Prediction]:
    answering = respondent(model)
    return answering.answer(answering.prepare(rows))


def test_clicks_follow_the_errors():
    """A wide object needs several clicks, and its mask grows with each; what a small one has too much is taken off."""
    wide, small = filled(0, 0, 64, 12), filled(20, 30, 28, 36)
    model = Painter()
    [answer] = clicked(model, asked(wide, small))
    assert model.looks == 1 and len(model.calls) == 5
    assert [text for text, _ in answer.phrases] == ["1 click", "3 clicks", "5 clicks"]
    after = [[rle_to_mask(rle) for rle in masks] for masks in answer.masks_of_phrases()]
    covered = [(masks[0] & wide).sum() for masks in after]
    assert covered[0] < covered[1] < covered[2]
    x, y = interior_point(wide)
    assert after[0][0][int(y), int(x)] and after[0][0].sum() < wide.sum() / 3
    # Every object has its own clicks: all of the wide one's are on it, of the small one's some are not.
    labels = model.calls[-1]["labels"]
    assert labels[0, 0].tolist() == [1] * 5 and labels[0, 1, 0] == 1 and 0 in labels[0, 1].tolist()
    # From the second on the mask before comes with the clicks.
    assert model.calls[0]["masks"] is None and all(call["masks"].shape == (1, 2, LOW, LOW) for call in model.calls[1:])
    assert [call["labels"].shape[-1] for call in model.calls] == [1, 2, 3, 4, 5]
    assert not any(call["multimask"] for call in model.calls)


def test_one_click_takes_the_best_of_several_masks():
    model = Painter(outputs=3)
    [answer] = clicked(model, asked(filled(0, 0, 16, 12)))
    assert [call["multimask"] for call in model.calls] == [True, False, False, False, False]
    assert rle_to_mask(answer.masks[0][0]).any()


class OnceRight(Painter):
    """A model whose first mask is a fixed one, and whose later masks are empty."""

    logits = torch.full((LOW, LOW), -4.0)
    logits[4:9, 3:12] = 4.0

    def segment(self, features, **prompts):
        found = super().segment(features, **prompts)
        found.logits[:] = self.logits if prompts["masks"] is None else -4.0
        return found


def test_a_right_mask_gets_no_more_clicks_and_stays():
    [right] = masks_of_logits(OnceRight.logits[None], HEIGHT, WIDTH)
    model = OnceRight()
    [answer] = clicked(model, asked(right, filled(0, 0, 4, 4)))
    assert [mask_to_rle(right)] * 3 == [masks[0] for masks in answer.masks]
    assert model.calls[-1]["labels"][0, 0].tolist() == [1, -1, -1, -1, -1]
    # The other object is clicked on again.
    assert (model.calls[-1]["labels"][0, 1] >= 0).all() and not rle_to_mask(answer.masks[2][1]).any()


def test_images_of_a_batch_have_their_own_sizes_and_numbers_of_objects():
    tall = filled(2, 10, 20, 60, height=80, width=24)
    rows = [asked(filled(0, 0, 30, 20), filled(40, 30, 60, 44)), asked(tall, index=4, size=(24, 80))]
    together = clicked(Painter(), *rows)
    alone = [clicked(Painter(), row)[0] for row in rows]
    assert together == alone
    assert [answer.index for answer in together] == [0, 4]
    assert together[1].masks[0][0]["size"] == [80, 24]
    assert [len(answer.masks[0]) for answer in together] == [2, 1]


def test_many_objects_are_clicked_in_parts(monkeypatch):
    objects = [filled(8 * number, 0, 8 * number + 8, 10) for number in range(5)]
    [at_once] = clicked(Painter(), asked(*objects))
    monkeypatch.setattr(benchmark, "OBJECTS_AT_ONCE", 2)
    model = Painter()
    [in_parts] = clicked(model, asked(*objects))
    assert at_once == in_parts and {len(call["labels"][0]) for call in model.calls} == {1, 2} and model.looks == 1


def test_memory_grows_with_the_objects_clicked_on_at_once(monkeypatch):
    """A photo of 12 million pixels with a hundred objects would take gigabytes if all its masks were decoded."""
    monkeypatch.setattr(benchmark, "OBJECTS_AT_ONCE", 2)
    size = (1000, 800)
    objects = [filled(8 * number, 0, 8 * number + 8, 10, *size[::-1]) for number in range(40)]
    answering, row = respondent(Painter()), asked(*objects, size=size)
    tracemalloc.start()
    try:
        [answer] = answering.answer(answering.prepare([row]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(answer.masks[0]) == 40 and peak < 12 * objects[0].nbytes


def test_metrics_by_hand():
    target, half = filled(0, 0, 20, 20), filled(0, 0, 20, 12)
    row = detection_row(target, None, target)

    def answer(*after: list[np.ndarray]) -> Prediction:
        phrases = [(benchmark.clicks_name(count), Regions([[0.0, 0, 9, 9]] * 2)) for count in (1, 3, 5)]
        return Prediction(0, "7", "", phrases, "", [[mask_to_rle(mask) for mask in masks] for masks in after])

    found = answer([half, filled(30, 30, 40, 40)], [half, half], [target, half])
    metrics = benchmark.score_clicks([found], [row])
    assert metrics == pytest.approx(
        {"miou@1": 0.3, "hit@1": 0.5, "miou@3": 0.6, "hit@3": 1.0, "miou@5": 0.8, "hit@5": 1.0}
    )
    assert list(metrics) == [metric.name for metric in benchmark.METRICS]
    assert benchmark.score_click_rows([found], [row]) == [pytest.approx(0.3)]
    assert benchmark.drawn_click_masks(found, row) == (found.masks[0], [mask_to_rle(target)] * 2)
    assert benchmark.drawn_click_boxes(found, row) == ([[0.0, 0.0, 9.0, 9.0]] * 2, [])
    with pytest.raises(ValueError, match="Prediction 0 is not of the benchmark interactive-segmentation"):
        benchmark.score_clicks([Prediction(0, "7", "", [], "")], [row])


def test_only_objects_with_masks_are_clicked_on():
    mask = filled(0, 0, 5, 5)
    rows = rows_of(detection_row(mask, None), detection_row(None), detection_row(masks=None), detection_row(mask))
    found = benchmark.interactive_rows(rows)
    assert len(found.asked) == 2 and [len(benchmark.object_masks(row)) for row in found.rows] == [1, 1]
    without = detection_row(mask)
    del without["masks"]
    for nothing in (rows_of(without), rows_of(detection_row(None), detection_row(masks=None))):
        with pytest.raises(ValueError, match="no `masks`: there is nothing to click on"):
            benchmark.interactive_rows(nothing)


@pytest.mark.parametrize("mask", [np.zeros((HEIGHT, WIDTH), bool), filled(0, 0, 5, 5).T])
def test_masks_that_are_no_objects(mask):
    with pytest.raises(ValueError, match=r"Row 3 \(image_id '7'\) has a mask in `masks` that is empty or has another"):
        respondent(Painter()).prepare([asked(mask, index=3)])


@pytest.mark.parametrize("kind", ["groma", "detector"])
def test_scenes_of_shapes_from_the_click_to_the_gallery(kind, tmp_path):
    processor = training_processor()
    model = training_model(masks=True)
    if kind == "detector":
        torch.manual_seed(0)
        model = GromaForRegionProposal(tiny_detector_config(MASK_DECODER))
        processor = processor.image_processor
    rows = shapes_dataset("detection", 3, 0, split="test", image_size=112)
    results = evaluate(benchmark.BENCHMARK, model, processor, rows, tmp_path, batch_size=2, progress=False, gallery=1)
    assert set(results.metrics) == {metric.name for metric in benchmark.METRICS}
    assert {"gallery.html", "predictions.jsonl", "results.md"} <= set(files_in(tmp_path))
    for prediction in read_predictions(tmp_path).values():
        assert all(len(masks) == len(rows[prediction.index]["masks"]) for masks in prediction.masks)
