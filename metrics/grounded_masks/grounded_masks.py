"""Metrics of phrases that are tied to masks, as a metric of `evaluate`."""

import datasets
import evaluate

from transformers_groma.evaluation.metrics.grounded_masks import grounded_mask_scores
from transformers_groma.evaluation.metrics.phrase_words import token_f1

_DESCRIPTION = """
Metrics of phrases that are tied to masks, as in grounded conversation generation (GCG). Masks of an answer and of the
truth are paired one to one, the highest IoU first. A phrase is found if the IoU of its pair and the similarity of the
two phrases are at least 0.5.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list, one entry an answer): its phrases, each {"text": str, "mask": COCO RLE or None}.
    references (list, one entry an answer): the true phrases in the same form, each with a mask.
    text_encoder (str, optional): folder or Hub name of an encoder whose embeddings say how alike phrases are; by
        default it is the F1 of their words.

Returns:
    dict: miou of GLaMM, where masks without a pair cost nothing; target_miou, where they count 0; mask_recall, the
        share of true phrases that are found; glamm_release_mask_recall, as GLaMM's script computes it. In 0..1.

Example:
    >>> import evaluate
    >>> metric = evaluate.load("metrics/grounded_masks")
    >>> left, right = {"size": [2, 2], "counts": "022"}, {"size": [2, 2], "counts": "22"}
    >>> said = [{"text": "The dog", "mask": left}, {"text": "a tree", "mask": None}]
    >>> true = [{"text": "a dog", "mask": left}, {"text": "a cat", "mask": right}]
    >>> results = metric.compute(predictions=[said], references=[true])
    >>> results["miou"], results["mask_recall"]
    (1.0, 0.5)
"""

_CITATION = """
@inproceedings{rasheed2024glamm,
  title     = {GLaMM: Pixel Grounding Large Multimodal Model},
  author    = {Rasheed, Hanoona and Maaz, Muhammad and Shaji, Sahal and Shaker, Abdelrahman and Khan, Salman and
               Cholakkal, Hisham and Anwer, Rao M. and Xing, Eric and Yang, Ming-Hsuan and Khan, Fahad S.},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2024}
}
"""

MASK = {"size": datasets.List(datasets.Value("int64")), "counts": datasets.Value("string")}
PHRASE = {"text": datasets.Value("string"), "mask": MASK}


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class GroundedMasks(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.List(PHRASE), "references": datasets.List(PHRASE)}),
            reference_urls=["https://arxiv.org/abs/2311.03356"],
        )

    def _compute(self, predictions: list, references: list, text_encoder: str | None = None) -> dict[str, float]:
        said, true = (
            [[(phrase["text"], phrase["mask"]) for phrase in answer] for answer in answers]
            for answers in (predictions, references)
        )
        similarity = token_f1
        if text_encoder is not None:
            from transformers_groma.evaluation.text_encoders import TextEncoder

            similarity = TextEncoder(text_encoder)
        return grounded_mask_scores(said, true, similarity)
