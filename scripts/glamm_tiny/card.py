"""Writes glamm-tiny's model card from its template, at the end of `make evaluate-glamm-tiny`.

    python -m scripts.glamm_tiny.card [--model hub_configs/glamm-tiny]

The metrics come from the card's metadata, where `groma evaluate --card` puts them. The table for readers repeats them.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import EvalResult

from scripts.groma_tiny.card import HUB_CONFIGS
from scripts.tiny_card import fill_tiny_card, measured_results
from transformers_groma._files import write_file
from transformers_groma.models.glamm.modeling_glamm import GlammForConditionalGeneration

MODEL = HUB_CONFIGS / "glamm-tiny"
# The minutes of each step of the training; `train.py` writes them.
MINUTES = HUB_CONFIGS / "recipes" / "glamm_tiny" / "minutes.json"
TEMPLATE = Path(__file__).with_suffix(".md")
# Dataset and metric as they are named in the metadata, and what the metric says.
HEADLINES = (
    ("shapes-conversation", "ap@0.5", "grounded conversations: AP of the masks at IoU 0.5"),
    (
        "shapes-conversation",
        "glamm_release_ap@0.5",
        "grounded conversations: AP with a score of 1 for every mask, as in GLaMM's script",
    ),
    ("shapes-conversation", "miou", "grounded conversations: mIoU of masks paired with a phrase, as in the paper"),
    ("shapes-conversation", "target_miou", "grounded conversations: mIoU over all true masks"),
    ("shapes-conversation", "mask_recall", "grounded conversations: share of phrases that are found"),
    ("shapes-rec", "ciou", "referring segmentation: cIoU"),
    ("shapes-rec", "giou", "referring segmentation: mean IoU"),
    ("shapes-region-caption", "exact_match", "descriptions of regions that are correct word for word"),
)
STEPS = {
    "grounding": "grounding encoder and mask decoder alone",
    "vision": "vision and region encoder, from groma-tiny's",
    "language": "language model, from groma-tiny's",
    "data": "scenes",
    "glamm": "the whole model, `groma train glamm`",
}


def tiny_card(
    model: GlammForConditionalGeneration, minutes: Mapping[str, int], results: Sequence[EvalResult] = ()
) -> str:
    """Fill in the card of glamm-tiny.

    Args:
        model (`GlammForConditionalGeneration`): the model of the folder.
        minutes (`Mapping[str, int]`): how long each step of its training took.
        results (`Sequence[EvalResult]`): metrics of `groma evaluate`; none right after a training.

    Returns:
        `str`: Markdown with metadata.

    Raises:
        KeyError: some results, but not all that the table shows.
    """
    steps = [(meaning, minutes[step]) for step, meaning in STEPS.items()]
    return fill_tiny_card(TEMPLATE, MODEL.name, model, steps, HEADLINES, results)


def write_tiny_card(folder: Path) -> None:
    """Rewrite the card with the metrics in its metadata, if there are any yet.

    Args:
        folder (`Path`): folder of the model.
    """
    model = GlammForConditionalGeneration.from_pretrained(folder)
    minutes = json.loads(MINUTES.read_text(encoding="utf-8"))
    write_file(folder / "README.md", tiny_card(model, minutes, measured_results(folder)).encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of the model (default: %(default)s)")
    write_tiny_card(parser.parse_args().model)
