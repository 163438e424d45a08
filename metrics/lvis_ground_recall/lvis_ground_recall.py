"""Recall on LVIS-Ground following the released script, as a metric of `evaluate`."""

import datasets
import evaluate

from transformers_groma.evaluation.metrics.lvis_average_precision import lvis_ground_eval

_DESCRIPTION = """
Recall on LVIS-Ground as Groma's released script computes it: LVIS's own evaluation over all predicted boxes, each with
a score of 1, averaged over categories. It is not the paper's AS-MANY protocol; that is the metric as_many_recall.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list, one entry per question): boxes [x1, y1, x2, y2] in pixels of the original image, in the model's
        order.
    references (list, one entry per question): the true boxes [x1, y1, x2, y2].
    categories (list of str): what each question asks for.
    image_ids (list of str): the image of each question. No image is asked twice for the same category.
    areas (list, one entry per question, optional): area of each true object in square pixels (LVIS: of its mask); by
        default that of the box.

Returns:
    dict: ar (mean over IoU 0.50:0.95), ar@0.5, ar@0.75, ar_small, ar_medium, ar_large; in 0..1, or -1 where there is
        no target (of that size) at all.

Example:
    >>> import evaluate
    >>> metric = evaluate.load("metrics/lvis_ground_recall")
    >>> cups, dog = [[0, 0, 50, 50], [100, 0, 150, 50]], [[0, 100, 90, 190]]
    >>> metric.compute(
    ...     predictions=[cups[:1], dog], references=[cups, dog], categories=["cup", "dog"], image_ids=["7", "7"]
    ... )["ar"]
    0.75
"""

_CITATION = """
@inproceedings{ma2024groma,
  title     = {Groma: Localized Visual Tokenization for Grounding Multimodal Large Language Models},
  author    = {Ma, Chuofan and Jiang, Yi and Wu, Jiannan and Yuan, Zehuan and Qi, Xiaojuan},
  booktitle = {European Conference on Computer Vision},
  year      = {2024}
}
@inproceedings{gupta2019lvis,
  title     = {LVIS: A Dataset for Large Vocabulary Instance Segmentation},
  author    = {Gupta, Agrim and Dollar, Piotr and Girshick, Ross},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year      = {2019}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class LvisGroundRecall(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.List(datasets.Value("float64"))),
                    "references": datasets.List(datasets.List(datasets.Value("float64"))),
                    "categories": datasets.Value("string"),
                    "image_ids": datasets.Value("string"),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2404.13013", "https://github.com/lvis-dataset/lvis-api"],
        )

    def _compute(
        self, predictions: list, references: list, categories: list, image_ids: list, areas: list | None = None
    ) -> dict[str, float]:
        return lvis_ground_eval(predictions, references, categories, image_ids, areas)
