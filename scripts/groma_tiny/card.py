"""Writes groma-tiny's model card from its template, at the end of `make evaluate-tiny`.

    python -m scripts.groma_tiny.card [--model hub_configs/groma-tiny]

The metrics come from the card's metadata, where `groma evaluate --card` puts them. The table for readers repeats them.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import EvalResult

from scripts.tiny_card import fill_tiny_card, measured_results
from transformers_groma import GromaForConditionalGeneration
from transformers_groma._files import write_file

HUB_CONFIGS = Path(__file__).parents[2] / "hub_configs"
MODEL = HUB_CONFIGS / "groma-tiny"
# The minutes of each step of the last training; `train.py` writes them.
MINUTES = HUB_CONFIGS / "recipes" / "tiny" / "minutes.json"
TEMPLATE = Path(__file__).with_suffix(".md")
# Dataset and metric as they are named in the metadata, and what the metric says.
HEADLINES = (
    ("shapes-detection", "recall@0.5", "region proposals: share of objects with a region at IoU 0.5"),
    ("shapes-detection", "ar@100", "region proposals: average recall over IoU 0.50:0.95"),
    ("shapes-detection", "regions_per_image", "region proposals: regions per image"),
    ("shapes-rec", "acc@0.5", "referring expressions: accuracy at IoU 0.5"),
    ("shapes-region-caption", "exact_match", "region captions that are correct word for word"),
    ("shapes-grounding", "ar@0.5", "all objects of a kind: recall at IoU 0.5"),
    ("shapes-grounded-caption", "region_f1@0.5", "grounded captions: F1 of the boxes at IoU 0.5"),
    ("shapes-llava-bench", "relative_score", "open questions: words right, of 100"),
)
# Of a model that decodes masks.
MASK_HEADLINES = (
    ("shapes-detection", "mask_iou", "masks: mean IoU of those of found objects"),
    ("shapes-detection", "mask_filled_box_iou", "masks: the same for filled boxes"),
    ("shapes-detection", "mask_iou_small", "masks: mean IoU of found objects below 32² pixels"),
    ("shapes-rec", "ciou", "referring segmentation: cIoU"),
    ("shapes-conversation", "ap@0.5", "grounded conversations: AP of the masks at IoU 0.5"),
    ("shapes-detection", "miou@1", "one click: mean IoU of the masks"),
    ("shapes-detection", "hit@1", "one click: share of masks with an IoU above 0.5"),
)
STEPS = {
    "data": "scenes",
    "language": "language model alone",
    "vision": "vision encoder alone",
    "detection": "stage 1, detection",
    "alignment": "stage 2, alignment",
    "sft": "stage 3, instruction",
    "masks": "mask decoder",
}


def tiny_card(
    model: GromaForConditionalGeneration, minutes: Mapping[str, int], results: Sequence[EvalResult] = ()
) -> str:
    """Fill in the card of groma-tiny.

    Args:
        model (`GromaForConditionalGeneration`): the model of the folder.
        minutes (`Mapping[str, int]`): how long each step of its training took.
        results (`Sequence[EvalResult]`): metrics of `groma evaluate`; none right after a training.

    Returns:
        `str`: Markdown with metadata.

    Raises:
        KeyError: some results, but not all that the table shows.
    """
    headlines = HEADLINES if model.config.mask_decoder_config is None else HEADLINES + MASK_HEADLINES
    steps = [(meaning, minutes[step]) for step, meaning in STEPS.items()]
    return fill_tiny_card(TEMPLATE, MODEL.name, model, steps, headlines, results)


def write_tiny_card(folder: Path) -> None:
    """Rewrite the card with the metrics in its metadata, if there are any yet.

    Args:
        folder (`Path`): folder of the model.
    """
    model = GromaForConditionalGeneration.from_pretrained(folder)
    minutes = json.loads(MINUTES.read_text(encoding="utf-8"))
    write_file(folder / "README.md", tiny_card(model, minutes, measured_results(folder)).encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of the model (default: %(default)s)")
    write_tiny_card(parser.parse_args().model)
