"""Metrics of referring segmentation, as a metric of `evaluate`."""

import datasets
import evaluate

from transformers_groma.evaluation.metrics.referring_segmentation import referring_segmentation_scores

_DESCRIPTION = """
Metrics of referring segmentation: an expression refers to something in an image; the model answers with its pixels.
All masks of an answer count as one mask, as do those of a target. Where neither has a pixel, the IoU is 1.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list, one entry an answer): its masks, COCO RLE {"size": [height, width], "counts": str}; an empty
        list where it has none.
    references (list, one entry an answer): the true masks; an empty list where the expression refers to nothing.

Returns:
    dict: ciou, the sum of all intersections over that of all unions; giou, the mean IoU; p@0.5, p@0.6, p@0.7, p@0.8,
        p@0.9, the shares of answers with at least this IoU; missing, the share of answers without a mask. In 0..1.

Example:
    >>> import evaluate
    >>> metric = evaluate.load("metrics/referring_segmentation")
    >>> left, whole = {"size": [2, 2], "counts": "022"}, {"size": [2, 2], "counts": "04"}
    >>> results = metric.compute(predictions=[[left], [whole]], references=[[whole], [whole]])
    >>> results["ciou"], results["p@0.6"]
    (0.75, 0.5)
"""

_CITATION = """
@inproceedings{yu2016modeling,
  title     = {Modeling Context in Referring Expressions},
  author    = {Yu, Licheng and Poirson, Patrick and Yang, Shan and Berg, Alexander C. and Berg, Tamara L.},
  booktitle = {European Conference on Computer Vision},
  year      = {2016}
}
"""

MASK = {"size": datasets.List(datasets.Value("int64")), "counts": datasets.Value("string")}


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class ReferringSegmentation(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.List(MASK), "references": datasets.List(MASK)}),
            reference_urls=["https://arxiv.org/abs/1608.00272"],
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return referring_segmentation_scores(predictions, references)
