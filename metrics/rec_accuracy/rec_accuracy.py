"""Accuracy of referring expression comprehension, as a metric of `evaluate`."""

import datasets
import evaluate

from transformers_groma.evaluation.metrics.rec_accuracy import rec_accuracy

_DESCRIPTION = """
Accuracy of referring expression comprehension (REC): one expression, one true box. An answer is right when its first
box overlaps the true one with an IoU above 0.5; an answer without a box is wrong.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list, one entry an answer): boxes [x1, y1, x2, y2] in the order of the answer; an empty list where it
        has none.
    references (list): the true box [x1, y1, x2, y2] of each, in the same units.

Returns:
    dict: acc@0.5, acc@0.75, acc@0.8, acc@0.9; mean_iou of the first box, 0 where there is none; missing, the share of
        answers without a box; any_acc@0.5, the share with any box right; best_of_n_iou, the mean IoU of the best box.
        All in 0..1.

Example:
    >>> import evaluate
    >>> metric = evaluate.load("metrics/rec_accuracy")
    >>> results = metric.compute(predictions=[[[0, 0, 10, 9]], []], references=[[0, 0, 10, 10], [5, 5, 9, 9]])
    >>> results["acc@0.5"], results["missing"]
    (0.5, 0.5)
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
class RecAccuracy(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.List(datasets.Value("float64"))),
                    "references": datasets.List(datasets.Value("float64")),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2404.13013"],
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return rec_accuracy(predictions, references)
