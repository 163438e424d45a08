"""Precision and recall of phrases that are tied to boxes, as a metric of `evaluate`."""

import datasets
import evaluate

from transformers_groma.evaluation.metrics.phrase_precision_recall import grounded_phrase_scores

_DESCRIPTION = """
Precision, recall and F1 of phrases that are tied to boxes, as in a grounded caption. A phrase's region is
what its boxes cover together; two phrases agree when the IoU of their regions is at least 0.5 and, for the first three
metrics, their words are the same but for capitals, articles and punctuation.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list, one entry an answer): its phrases, each {"text": str, "boxes": list of [x1, y1, x2, y2]}.
    references (list, one entry an answer): the true phrases in the same form. Those without boxes are left out.

Returns:
    dict: precision@0.5, recall@0.5, f1@0.5, of phrases whose words and region agree; region_precision@0.5,
        region_recall@0.5, region_f1@0.5, whatever their words. Over all phrases of all answers together, in 0..1.

Example:
    >>> import evaluate
    >>> metric = evaluate.load("metrics/grounded_phrase_accuracy")
    >>> said = [{"text": "The dog", "boxes": [[0, 0, 10, 9]]}, {"text": "a pet", "boxes": [[20, 0, 30, 10]]}]
    >>> true = [{"text": "a dog", "boxes": [[0, 0, 10, 10]]}, {"text": "a cat", "boxes": [[20, 0, 30, 10]]}]
    >>> results = metric.compute(predictions=[said], references=[true])
    >>> results["f1@0.5"], results["region_f1@0.5"]
    (0.5, 1.0)
"""

_CITATION = """
@inproceedings{ma2024groma,
  title     = {Groma: Localized Visual Tokenization for Grounding Multimodal Large Language Models},
  author    = {Ma, Chuofan and Jiang, Yi and Wu, Jiannan and Yuan, Zehuan and Qi, Xiaojuan},
  booktitle = {European Conference on Computer Vision},
  year      = {2024}
}
"""

PHRASES = datasets.List(
    {"text": datasets.Value("string"), "boxes": datasets.List(datasets.List(datasets.Value("float64")))}
)


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class GroundedPhraseAccuracy(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": PHRASES, "references": PHRASES}),
            reference_urls=["https://arxiv.org/abs/2404.13013"],
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        said, true = (
            [[(phrase["text"], phrase["boxes"]) for phrase in answer] for answer in answers]
            for answers in (predictions, references)
        )
        return grounded_phrase_scores(said, true)
