"""Recall of questions for all objects of a kind, as a metric of `evaluate`."""

import datasets
import evaluate

from transformers_groma.evaluation.metrics.as_many_recall import any_recall, as_many_recall, merged_boxes_recall

_DESCRIPTION = """
Recall of questions that ask for all objects of a kind. Under the AS-MANY protocol the k best predicted boxes of a
question with k true boxes count: if they hit 3 of 5 targets, recall is 60 %. ANY asks whether any box hits any target,
MERGED-BOXES compares the box around all predictions with the one around all targets.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list, one entry per question): boxes [x1, y1, x2, y2] in pixels of the original image, in the model's
        order.
    references (list, one entry per question): the true boxes [x1, y1, x2, y2].
    protocol (str): "as_many" (default), "any" or "merged_boxes".
    scores (list, one entry per question, optional): a score for each predicted box; without it the model's order ranks
        them.
    areas (list, one entry per question, optional): area of each true box's object in square pixels; by default that of
        the box.
    crowds (list, one entry per question, optional): which true boxes are crowd regions; these are not targets.
    max_boxes (int, optional; not of "as_many"): only this many of the best boxes of a question count.

Returns:
    dict: ar (mean over IoU 0.50:0.95), ar@0.5, ar@0.75, ar_small, ar_medium, ar_large; in 0..1, or -1 where there is
        no target (of that size) at all.

Example:
    >>> import evaluate
    >>> metric = evaluate.load("metrics/as_many_recall")
    >>> targets = [[100 * i, 0, 100 * i + 50, 50] for i in range(5)]
    >>> missed = [[0, 500, 50, 550], [100, 500, 150, 550]]
    >>> metric.compute(predictions=[targets[:3] + missed], references=[targets])["ar@0.5"]
    0.6
"""

_CITATION = """
@inproceedings{ma2024groma,
  title     = {Groma: Localized Visual Tokenization for Grounding Multimodal Large Language Models},
  author    = {Ma, Chuofan and Jiang, Yi and Wu, Jiannan and Yuan, Zehuan and Qi, Xiaojuan},
  booktitle = {European Conference on Computer Vision},
  year      = {2024}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class AsManyRecall(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.List(datasets.Value("float64"))),
                    "references": datasets.List(datasets.List(datasets.Value("float64"))),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2404.13013"],
        )

    def _compute(
        self,
        predictions: list,
        references: list,
        protocol: str = "as_many",
        scores: list | None = None,
        areas: list | None = None,
        crowds: list | None = None,
        max_boxes: int | None = None,
    ) -> dict[str, float]:
        arguments = (predictions, scores, references, areas, crowds)
        if protocol == "as_many":
            if max_boxes is not None:
                raise ValueError(
                    "`max_boxes` is not for protocol='as_many', where as many boxes count as there are targets."
                )
            return as_many_recall(*arguments)
        if protocol == "any":
            return any_recall(*arguments, max_boxes=max_boxes)
        if protocol == "merged_boxes":
            return merged_boxes_recall(*arguments, max_boxes=max_boxes)
        raise ValueError(f"`protocol` must be 'as_many', 'any' or 'merged_boxes', got {protocol!r}.")
