"""CIDEr and METEOR of captions, as a metric of `evaluate`."""

import datasets
import evaluate

from transformers_groma.evaluation.metrics.cider_meteor import caption_scores

_DESCRIPTION = """
CIDEr and METEOR 1.5 of captions of regions or images, as coco-caption computes them. CIDEr needs nothing but Python;
METEOR is its authors' Java program and is left out, with a warning, where there is no Java.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of str): one caption per region.
    references (list of lists of str): the true captions of each, at least one.

Returns:
    dict: cider, on coco-caption's scale (the paper prints it a hundredfold); meteor, 0..1, where there is Java.

Example:
    >>> import evaluate
    >>> metric = evaluate.load("metrics/region_caption")
    >>> captions, references = ["a red cat", "two dogs"], [["a red cat"], ["two big dogs", "dogs"]]
    >>> round(metric.compute(predictions=captions, references=references)["cider"], 3)
    4.689
"""

_CITATION = """
@inproceedings{vedantam2015cider,
  title     = {CIDEr: Consensus-based Image Description Evaluation},
  author    = {Vedantam, Ramakrishna and Zitnick, C. Lawrence and Parikh, Devi},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year      = {2015}
}
@inproceedings{denkowski2014meteor,
  title     = {Meteor Universal: Language Specific Translation Evaluation for Any Target Language},
  author    = {Denkowski, Michael and Lavie, Alon},
  booktitle = {Workshop on Statistical Machine Translation},
  year      = {2014}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RegionCaption(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.List(datasets.Value("string")),
                }
            ),
            reference_urls=["https://github.com/tylin/coco-caption", "https://www.cs.cmu.edu/~alavie/METEOR/"],
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return caption_scores(predictions, references)
