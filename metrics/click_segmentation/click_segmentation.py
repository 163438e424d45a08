"""Mean IoU after clicks, as a metric of `evaluate`."""

import datasets
import evaluate

from transformers_groma.evaluation.metrics.click_segmentation import click_segmentation_scores

_DESCRIPTION = """
How good the mask of an object is after some clicks on it, for interactive models.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list, one entry an object): its masks, COCO RLE {"size": [height, width], "counts": str}, one after
        each number of clicks.
    references (list): the true mask of each object.
    clicks (list of int, optional): the numbers of clicks; [1, 3, 5] by default.

Returns:
    dict: for each number N of clicks miou@N, the mean IoU, and hit@N, the share of masks with an IoU above 0.5. In
        0..1.

Example:
    >>> import evaluate
    >>> metric = evaluate.load("metrics/click_segmentation")
    >>> left, whole = {"size": [2, 2], "counts": "022"}, {"size": [2, 2], "counts": "04"}
    >>> metric.compute(predictions=[[left, whole]], references=[whole], clicks=[1, 3])
    {'miou@1': 0.5, 'hit@1': 0.0, 'miou@3': 1.0, 'hit@3': 1.0}
"""

_CITATION = """
@inproceedings{kirillov2023segment,
  title     = {Segment Anything},
  author    = {Kirillov, Alexander and Mintun, Eric and Ravi, Nikhila and Mao, Hanzi and Rolland, Chloe and
               Gustafson, Laura and Xiao, Tete and Whitehead, Spencer and Berg, Alexander C. and Lo, Wan-Yen and
               Doll{\\'a}r, Piotr and Girshick, Ross},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2023}
}
"""

MASK = {"size": datasets.List(datasets.Value("int64")), "counts": datasets.Value("string")}


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class ClickSegmentation(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.List(MASK), "references": MASK}),
            reference_urls=["https://arxiv.org/abs/2304.02643"],
        )

    def _compute(self, predictions: list, references: list, clicks: tuple[int, ...] = (1, 3, 5)) -> dict[str, float]:
        if len(set(clicks)) != len(clicks):
            raise ValueError(f"`clicks` must be different numbers, got {list(clicks)}.")
        for index, masks in enumerate(predictions):
            if len(masks) != len(clicks):
                raise ValueError(
                    f"`predictions[{index}]` must have one mask for each of `clicks` {list(clicks)}, got {len(masks)}."
                )
        after = {count: [masks[index] for masks in predictions] for index, count in enumerate(clicks)}
        return click_segmentation_scores(after, references)
