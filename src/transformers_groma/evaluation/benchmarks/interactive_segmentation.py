"""Interactive segmentation: how good the mask of an object is after one, three and five clicks on it.

Clicks are placed as in SAM's evaluation: the first at the object's most interior point, each further one in the middle
of the largest region that is still wrong, as a point on the object where it is missed and as one that is not on it
where something else is covered. Every object of a row that has a mask is clicked on, by itself. Rows have the
detection columns and `masks`: those of `processing/coco.py`, or of `groma data shapes --task detection`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from ...image_inputs import to_upright_8_bit
from ...masks import RLE, mask_to_rle, masks_of_logits, rle_area, rle_to_box, rle_to_mask
from ...model_files import PROPOSING_MODELS
from ...models.groma.processing_groma import GromaProcessor
from ...point_labels import NO_POINT
from ...regions import Regions
from ..benchmark import Asking, Benchmark, BenchmarkRows, Metric, Row, row_name, rows_without_image
from ..metrics.click_segmentation import click_segmentation_scores
from ..metrics.clicks import next_click
from ..metrics.referring_segmentation import ious_of_overlaps, mask_overlaps
from ..predictions import Prediction

# Masks are scored after this many clicks.
CLICK_COUNTS = (1, 3, 5)
# Objects of each image whose masks are decoded in one call: a batch of images with many would need gigabytes.
OBJECTS_AT_ONCE = 16

METRICS = tuple(
    metric
    for count in CLICK_COUNTS
    for metric in (
        Metric(f"miou@{count}", f"mean IoU of the objects' masks after {count} {'click' if count == 1 else 'clicks'}"),
        Metric(f"hit@{count}", "share of these masks with an IoU above 0.5: the right object"),
    )
)


def interactive_rows(dataset: Dataset) -> BenchmarkRows:
    """Click on all objects that have masks, and check that there are any.

    Args:
        dataset (`Dataset`): detection columns and `masks`.

    Returns:
        `BenchmarkRows`: the rows that have an object with a mask.

    Raises:
        ValueError: no column `masks`, or no mask in it.
    """
    rows = rows_without_image(dataset) if "masks" in dataset.features else []
    clicked = [index for index, row in enumerate(rows) if object_masks(row)]
    if not clicked:
        raise ValueError(
            "`dataset` has no `masks`: there is nothing to click on. `groma data shapes` and the scripts of "
            "processing/ write them for sources with segmentations; make the rows again."
        )
    return BenchmarkRows(dataset.select(clicked), [rows[index] for index in clicked])


def object_masks(row: Row) -> list[RLE]:
    """The masks of a row's objects, without those that have none.

    Args:
        row (`Mapping`): detection columns.

    Returns:
        `list[RLE]`: in the order of the row.
    """
    return [mask for mask in row["masks"] or [] if mask is not None]


class _Objects(NamedTuple):
    """A batch of images with the masks of the objects to click on, which stay RLE: there may be a hundred."""

    indices: list[int]
    image_ids: list[str]
    pixel_values: Tensor
    targets: list[list[RLE]]


class ClickRespondent:
    """Answers a row with the masks of its objects after some clicks, which it places where the masks are wrong.

    Args:
        model (`GromaForRegionProposal` or `GromaForConditionalGeneration`): with a mask decoder, put into evaluation
            mode.
        processor (`GromaProcessor` or image processor): its processor.
        asking (`Asking`): not used, as nothing is asked.
    """

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin | BaseImageProcessor, asking: Asking | None = None
    ) -> None:
        self.model = model.eval()
        self.image_processor = processor.image_processor if isinstance(processor, GromaProcessor) else processor

    def question(self, row: Row) -> str:
        """Empty, as clicks are the whole question; see [`Respondent`]."""
        return ""

    def prepare(self, rows: Sequence[Row]) -> _Objects:
        """Turn images into pixels for the model, and check the masks to click on; see [`Respondent`]."""
        images = [to_upright_8_bit(row["image"]) for row in rows]
        targets = [object_masks(row) for row in rows]
        for row, image, masks in zip(rows, images, targets, strict=True):
            for mask in masks:
                if list(mask["size"]) != [image.height, image.width] or rle_area(mask) == 0:
                    raise ValueError(
                        f"{row_name(row['index'], row)} has a mask in `masks` that is empty or has another size than "
                        "the upright image. Make the rows again."
                    )
        return _Objects(
            [row["index"] for row in rows],
            [row["image_id"] for row in rows],
            self.image_processor(images=images, return_tensors="pt")["pixel_values"],
            targets,
        )

    @torch.no_grad()
    def answer(self, prepared: _Objects) -> list[Prediction]:
        """Click on the objects of a batch of images; see [`Respondent`].

        Args:
            prepared: a batch from `prepare`.

        Returns:
            `list[Prediction]`: one a row, with a phrase for each of `CLICK_COUNTS`, named by [`clicks_name`], whose
                regions are the objects of the row with their masks.
        """
        features = self.model.get_image_features(prepared.pixel_values.to(self.model.device))
        embedding = self.model.mask_embedding(features)
        masks: list[dict[int, list[RLE]]] = [{count: [] for count in CLICK_COUNTS} for _ in prepared.targets]
        longest = max(map(len, prepared.targets))
        for start in range(0, longest, OBJECTS_AT_ONCE):
            some = [targets[start : start + OBJECTS_AT_ONCE] for targets in prepared.targets]
            objects = [[rle_to_mask(target) for target in targets] for targets in some]
            for image, found in enumerate(self._click(features, embedding, objects)):
                for count in CLICK_COUNTS:
                    masks[image][count] += found[count]
        return [
            _prediction(index, image_id, of_image)
            for index, image_id, of_image in zip(prepared.indices, prepared.image_ids, masks, strict=True)
        ]

    def _click(
        self, features: Any, embedding: Any, objects: Sequence[Sequence[np.ndarray]]
    ) -> list[dict[int, list[RLE]]]:
        """For each image the masks of its objects after each number of clicks."""
        shape = len(objects), max(map(len, objects)), CLICK_COUNTS[-1]
        points, labels = torch.zeros(*shape, 2), torch.full(shape, NO_POINT)
        found = [[np.zeros_like(target) for target in targets] for targets in objects]
        kept: list[dict[int, list[RLE]]] = [{} for _ in objects]
        logits = None
        for count in range(1, CLICK_COUNTS[-1] + 1):
            clicked: list[list[int]] = [[] for _ in objects]
            for image, targets in enumerate(objects):
                for number, target in enumerate(targets):
                    # A mask without any error gets no more clicks, and stays.
                    if (click := next_click(target, found[image][number])) is not None:
                        (x, y), label = click
                        height, width = target.shape
                        place = image, number, int((labels[image, number] != NO_POINT).sum())
                        points[place], labels[place] = torch.tensor([x / width, y / height]), label
                        clicked[image].append(number)
            used = labels[..., :count]
            logits = self._decode(features, embedding, points[..., :count, :], used, logits)
            for image, (targets, numbers) in enumerate(zip(objects, clicked, strict=True)):
                if numbers:
                    masks = masks_of_logits(logits[image, numbers], *targets[0].shape)
                    for number, mask in zip(numbers, masks, strict=True):
                        found[image][number] = mask
                if count in CLICK_COUNTS:
                    kept[image][count] = [mask_to_rle(mask) for mask in found[image]]
        return kept

    def _decode(self, features: Any, embedding: Any, points: Tensor, labels: Tensor, before: Tensor | None) -> Tensor:
        """The masks of objects, `(B, K, h, w)` logits: after one click the best of several, later corrected ones."""
        several = before is None and self.model.config.mask_decoder_config.num_multimask_outputs > 0
        masks = self.model.segment(
            features, points=points, point_labels=labels, masks=before, multimask=several, embedding=embedding
        )
        best = masks.quality.argmax(dim=-1)[..., None, None, None]
        return masks.logits.gather(2, best.expand(-1, -1, 1, *masks.logits.shape[-2:]))[:, :, 0]


def clicks_name(count: int) -> str:
    """The phrase that an answer has for the masks after this many clicks."""
    return f"{count} {'click' if count == 1 else 'clicks'}"


def score_clicks(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
    """Compute all metrics of masks after clicks.

    Args:
        predictions (`Sequence[Prediction]`): answers of a [`ClickRespondent`].
        rows (`Sequence[Mapping]`): detection rows with `masks`, one for each answer.

    Returns:
        `dict[str, float]`: see [`click_segmentation_scores`].
    """
    after = {
        count: [mask for prediction in predictions for mask in _masks_after(prediction, count)]
        for count in CLICK_COUNTS
    }
    return click_segmentation_scores(after, [mask for row in rows for mask in object_masks(row)])


def score_click_rows(predictions: Sequence[Prediction], rows: Sequence[Row]) -> list[float]:
    """Score each image by the mean IoU of its objects' masks after one click.

    Args:
        predictions (`Sequence[Prediction]`), rows (`Sequence[Mapping]`): see [`score_clicks`].

    Returns:
        `list[float]`: one an image.
    """
    scores = []
    for prediction, row in zip(predictions, rows, strict=True):
        found, targets = _masks_after(prediction, CLICK_COUNTS[0]), object_masks(row)
        overlaps = mask_overlaps([[mask] for mask in found], [[mask] for mask in targets])
        scores.append(float(ious_of_overlaps(*overlaps).mean()))
    return scores


def drawn_click_boxes(prediction: Prediction, row: Row) -> tuple[list[list[float]], list[list[float]]]:
    """The boxes around the masks after one click, and no true ones, as those have outlined masks.

    Args:
        prediction (`Prediction`): the answer.
        row (`Mapping`): the row.

    Returns:
        `tuple[list, list]`: boxes `xyxy` in pixels.
    """
    return dict(prediction.phrases)[clicks_name(CLICK_COUNTS[0])].xyxy.tolist(), []


def drawn_click_masks(prediction: Prediction, row: Row) -> tuple[list[RLE], list[RLE]]:
    """The masks after one click, and the true ones.

    Args:
        prediction (`Prediction`): the answer.
        row (`Mapping`): the row.

    Returns:
        `tuple[list, list]`: masks of the upright image, as COCO's RLE.
    """
    return _masks_after(prediction, CLICK_COUNTS[0]), object_masks(row)


def _prediction(index: int, image_id: str, masks: dict[int, list[RLE]]) -> Prediction:
    phrases = [(clicks_name(count), Regions([rle_to_box(mask) for mask in masks[count]])) for count in CLICK_COUNTS]
    return Prediction(index, image_id, "", phrases, "", [masks[count] for count in CLICK_COUNTS])


def _masks_after(prediction: Prediction, count: int) -> list[RLE]:
    names = [text for text, _ in prediction.phrases]
    if clicks_name(count) not in names:
        raise ValueError(f"Prediction {prediction.index} is not of the benchmark interactive-segmentation.")
    return prediction.masks_of_phrases()[names.index(clicks_name(count))]


BENCHMARK = Benchmark(
    name="interactive-segmentation",
    title="Interactive segmentation",
    schemas=("detection",),
    more_columns=("masks",),
    prepare=interactive_rows,
    respondent=ClickRespondent,
    score=score_clicks,
    score_rows=score_click_rows,
    metrics=METRICS,
    needs_masks=True,
    model_types=PROPOSING_MODELS,
    drawn_boxes=drawn_click_boxes,
    drawn_masks=drawn_click_masks,
)

__all__ = [
    "BENCHMARK",
    "CLICK_COUNTS",
    "ClickRespondent",
    "clicks_name",
    "drawn_click_boxes",
    "drawn_click_masks",
    "interactive_rows",
    "object_masks",
    "score_click_rows",
    "score_clicks",
]
