"""Average precision of masks without classes, as a metric of `evaluate`."""

import datasets
import evaluate

from transformers_groma.evaluation.metrics.mask_average_precision import class_agnostic_mask_metrics

_DESCRIPTION = """
Average precision and recall of masks without classes, following COCO: COCOeval for "segm" with one category.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list, one entry an image): its masks, COCO RLE {"size": [height, width], "counts": str}.
    references (list, one entry an image): the true masks.
    scores (list, one entry an image, optional): the score of each mask; 1 by default, so that their order decides.
    crowds (list, one entry an image, optional): masks of crowd regions, which are neither right nor wrong.

Returns:
    dict: ap, ap@0.5, ap@0.75, ap_small, ap_medium, ap_large, ar@1, ar@10, ar@100, ar_small, ar_medium, ar_large,
        recall@0.5, recall@0.75; in 0..1, or -1 where there is no true mask (of that size).

Example:
    >>> import evaluate
    >>> metric = evaluate.load("metrics/mask_average_precision")
    >>> left, right = {"size": [2, 2], "counts": "022"}, {"size": [2, 2], "counts": "22"}
    >>> results = metric.compute(predictions=[[left]], references=[[left, right]])
    >>> round(results["ap@0.5"], 2), results["ar@100"]
    (0.5, 0.5)
"""

_CITATION = """
@inproceedings{lin2014microsoft,
  title     = {Microsoft {COCO}: Common Objects in Context},
  author    = {Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and Hays, James and Perona, Pietro and
               Ramanan, Deva and Doll{\\'a}r, Piotr and Zitnick, C. Lawrence},
  booktitle = {European Conference on Computer Vision},
  year      = {2014}
}
"""

MASK = {"size": datasets.List(datasets.Value("int64")), "counts": datasets.Value("string")}


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class MaskAveragePrecision(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.List(MASK), "references": datasets.List(MASK)}),
            reference_urls=["https://cocodataset.org/#detection-eval"],
        )

    def _compute(
        self, predictions: list, references: list, scores: list | None = None, crowds: list | None = None
    ) -> dict[str, float]:
        if scores is None:
            scores = [[1.0] * len(masks) for masks in predictions]
        if len(scores) != len(predictions):
            raise ValueError(
                f"`scores` must have one entry for each of the {len(predictions)} `predictions`, got {len(scores)}."
            )
        return class_agnostic_mask_metrics(list(zip(predictions, scores, strict=True)), references, crowds=crowds)
