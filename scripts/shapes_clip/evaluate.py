"""Prints how often shapes-clip is right by the views and texts that it compares, as Markdown and one line of JSON.

    python -m scripts.shapes_clip.evaluate MODEL OUTPUT [--images 420] [--seeds 3] [--proposer hub_configs/groma-tiny]

Scenes with one main object, labelled with one of 300 classes, among 6 to 12 smaller objects of other classes; the same
without the smaller ones; and with a main object of half the size. Features are kept in OUTPUT, so that an interrupted
run resumes.

The encoder is a toy that saw scenes of this kind. The numbers show that views, weights, scores and baselines do what
they say and how they compare here; they say nothing about photos or about CLIP.
"""

import argparse
import json
import logging
import math
from pathlib import Path

import torch

from transformers_groma.zero_shot.dual_encoder import DualEncoder
from transformers_groma.zero_shot.region_views import RegionViews

from .comparison import REFERENCE, ROWS, Outcome, Row, Texts, chosen_temperatures, difference, outcome
from .data import UNSEEN
from .features import VIEW_COUNT, SetFeatures, TestSet, encode_set, weights_digest
from .scenes import CLASSES, Layout

LARGE, SMALL = (0.35, 0.6), (0.22, 0.32)
CLUTTER, NO_CLUTTER = (6, 12), (0, 0)
# The paper's temperatures for CLIP, which nobody chose for this encoder.
PAPER_TEMPERATURES = (math.exp(4), math.exp(2))


def test_sets(images: int) -> list[TestSet]:
    """The sets that are printed; the second and third have half as many images."""
    return [
        TestSet("clutter", "test", Layout(LARGE, CLUTTER), images),
        TestSet("no clutter", "test", Layout(LARGE, NO_CLUTTER), max(1, images // 2)),
        TestSet("small", "test", Layout(SMALL, CLUTTER), max(1, images // 2)),
    ]


def validation_set(images: int) -> TestSet:
    """The images that temperatures are chosen on: cluttered, and in no test."""
    return TestSet("validation", "validation", Layout(LARGE, CLUTTER), max(1, images // 2))


def as_text(result: Outcome) -> str:
    """An accuracy in percent, with its deviation over seeds if it has one."""
    spread = "" if result.deviation is None else f" ± {100 * result.deviation:.1f}"
    return f"{100 * result.accuracy:.1f}{spread}"


def table(results: dict[str, dict[Row, Outcome]], temperatures: dict[Row, tuple[float, float]] | None) -> list[str]:
    """The lines of a Markdown table, one row for each way to classify.

    Args:
        results (`dict`): outcomes by title of the set and row.
        temperatures (`dict`, *optional*): of each row, to be printed.
    """
    first = next(iter(results))
    heads = ["views", "texts", "score", *results, f"{first}: difference [95 %]"]
    heads += ["temperatures of views, texts"] if temperatures else []
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in results[first]:
        gain, low, high = (100 * value for value in difference(results[first][row], results[first][REFERENCE]))
        cells = [row.title, row.method, row.score, *(as_text(of_set[row]) for of_set in results.values())]
        cells.append("–" if row == REFERENCE else f"{gain:+.1f} [{low:+.1f}, {high:+.1f}]")
        cells += ["{:.3g}, {:.3g}".format(*temperatures[row])] if temperatures else []
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def evaluate(model: Path, output: Path, proposer: Path, images: int, seeds: int) -> dict:
    """Print the tables.

    Args:
        model (`Path`): the trained encoder.
        output (`Path`): folder of the features.
        proposer (`Path`): a Groma.
        images (`int`): of the first set.
        seeds (`int`): draws of random squares and random texts.

    Returns:
        `dict`: what the JSON line says.
    """
    encoder = DualEncoder.from_pretrained(str(model), device="cpu")
    regions = RegionViews.from_pretrained(str(proposer), device="cpu", region_count=VIEW_COUNT)
    digest = weights_digest(model, proposer)
    sets = [*test_sets(images), validation_set(images)]
    features: dict[str, SetFeatures] = {
        one.title: encode_set(encoder, regions, one, seeds, output / "features", digest) for one in sets
    }
    *shown, validation = sets
    texts = Texts(encoder)
    chosen = {
        row: chosen_temperatures(features[validation.title], validation.labels, row, texts)
        for row in ROWS
        if row.method == "wca"
    }
    as_published = {
        one.title: {
            row: outcome(features[one.title], one.labels, row, texts, PAPER_TEMPERATURES, seeds) for row in ROWS
        }
        for one in shown
    }
    with_chosen = {
        one.title: {
            row: outcome(features[one.title], one.labels, row, texts, chosen.get(row, PAPER_TEMPERATURES), seeds)
            for row in (REFERENCE, *chosen)
        }
        for one in shown
    }
    counts = {one.title: one.count for one in sets}
    print(f"Accuracy in %, {len(CLASSES)} classes, images: {counts}, {seeds} seeds.")
    print("\nTemperatures of the paper, not chosen for this encoder:\n")
    print("\n".join(table(as_published, None)))
    print("\nTemperatures chosen on the validation images:\n")
    print("\n".join(table(with_chosen, {row: chosen.get(row, PAPER_TEMPERATURES) for row in (REFERENCE, *chosen)})))
    unseen = torch.tensor([CLASSES.index(kind) for kind in UNSEEN])
    is_unseen = torch.isin(shown[0].labels, unseen).numpy()
    print(f"\n{int(is_unseen.sum())} images of the first set show combinations that no training image or caption had:")
    for row in (ROWS[0], REFERENCE):
        share = as_published[shown[0].title][row].by_image[is_unseen].mean() if is_unseen.any() else float("nan")
        print(f"  {row.title}, {row.method}: {100 * share:.1f} %")
    found = (~features[shown[0].title].is_padding["regions"]).sum(dim=1).float()
    print(f"Regions of an image: {found.mean():.1f} on average, none in {int((found == 0).sum())} images.")
    return {
        "evaluation": "shapes-clip",
        "images": counts,
        "seeds": seeds,
        "accuracy": {title: _by_name(of_set) for title, of_set in as_published.items()},
        "accuracy_chosen_temperatures": {title: _by_name(of_set) for title, of_set in with_chosen.items()},
    }


def _by_name(results: dict[Row, Outcome]) -> dict[str, float]:
    return {f"{row.title} | {row.method} | {row.score}": round(one.accuracy, 4) for row, one in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of the trained encoder")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder of the features, kept for the next run")
    parser.add_argument("--images", type=int, default=420, help="of the first set; the others have half of it")
    parser.add_argument("--seeds", type=int, default=3, help="draws of random squares and random texts")
    parser.add_argument("--proposer", type=Path, default=Path("hub_configs/groma-tiny"), help="folder of a Groma")
    given = parser.parse_args()
    if given.images < 1 or given.seeds < 1:
        parser.error("--images and --seeds must be at least 1")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(json.dumps(evaluate(given.model, given.output, given.proposer, given.images, given.seeds)))


if __name__ == "__main__":
    main()
