"""Benchmark: evaluating groma-tiny in batches, and scoring answers.

    python benchmarks/bench_evaluation.py [--rows 500] [--batch-size 16] [--single-rows 100] [--questions 7]
                                          [--threads 2] [--repeats 3]

Four ratios, from this run on this machine. Two are batch against single: rows per second of an evaluation (REC on
synthetic scenes, 224x224 pixels) in batches / the same one row after the other, on the first `--single-rows` of the
rows. Both run `answer_dataset` as `groma evaluate` does, from encoded images to lines in `predictions.jsonl`. They
take turns in pieces of the size of these rows, so that a slow moment of the machine hits both; the fastest pieces
count.

- every row has an image of its own;
- `--questions` rows are about the same image, 7 as in RefCOCO: a batch encodes it once.

And each against earlier: one row after the other as it was before (`plain_ways.py`).

And seconds of scoring, with the time that is allowed for it: 100,000 REC answers (5 s) and LVIS-Ground of 20,000
answers (20 s).
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from measuring import print_result
from plain_ways import in_plain_ways
from tqdm import tqdm

from transformers_groma.data.columns import EVALUATION_FEATURES, image_part
from transformers_groma.evaluation.answers import answer_dataset
from transformers_groma.evaluation.benchmarks import lvis_ground, rec
from transformers_groma.evaluation.predictions import Prediction
from transformers_groma.evaluation.respondents import ChatRespondent
from transformers_groma.loading import load_model
from transformers_groma.regions import Regions
from transformers_groma.shapes.rows import ShapesOptions, shapes_dataset

MODEL = Path(__file__).parents[1] / "hub_configs" / "groma-tiny"
REC_ANSWERS, REC_SECONDS = 100_000, 5.0
LVIS_ANSWERS, LVIS_CATEGORIES, LVIS_SECONDS = 20_000, 1203, 20.0


def rows_of_shared_images(count: int, questions: int) -> Dataset:
    """REC rows of synthetic scenes, up to this many questions about each."""
    options = ShapesOptions("rec", seed=0, split="test", questions=questions)
    rows: list[dict[str, Any]] = []
    for scene in itertools.count():
        conversation = options.row(scene)
        for asked in conversation["messages"][::2]:
            if len(rows) == count:
                return Dataset.from_list(rows, features=EVALUATION_FEATURES)
            parts = [part for part in asked["content"] if part["type"] != "image"]
            rows.append(
                {
                    **{name: conversation[name] for name in ("image", "image_id", "source")},
                    "boxes_xyxy": [],
                    "messages": [{"role": "user", "content": [image_part(), *parts]}],
                    "references": [],
                    "target_boxes_xyxy": [],
                    "category": "",
                }
            )


def seconds_of_answers(respondent: ChatRespondent, rows: Dataset, batch_size: int) -> tuple[float, list[Prediction]]:
    """Seconds to answer rows into a fresh folder, and the answers."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        answers = answer_dataset(respondent, rows, folder, batch_size=batch_size, progress=False)
        return time.perf_counter() - start, answers


def compare_batches(
    respondent: ChatRespondent, rows: Dataset, batch_size: int, single_rows: int, repeats: int
) -> dict[str, float]:
    """Rows per second: in batches (all rows; the fastest piece), one by one, and that as before (fastest pieces)."""
    few = rows.select(range(min(single_rows, len(rows))))
    pieces = [rows.select(range(start, min(start + len(few), len(rows)))) for start in range(0, len(rows), len(few))]
    seconds_of_answers(respondent, rows.select(range(min(batch_size, len(rows)))), batch_size)  # warms up
    single, earlier, batched, whole = [], [], [], 0.0
    answer_as_before = in_plain_ways(seconds_of_answers)
    for number, piece in enumerate(tqdm(pieces, desc="pieces", unit="piece")):
        seconds, answers = seconds_of_answers(respondent, piece, batch_size)
        batched.append(seconds / len(piece))
        whole += seconds
        if number < repeats:
            seconds, alone = seconds_of_answers(respondent, few, 1)
            single.append(seconds / len(few))
            seconds, before = answer_as_before(respondent, few, 1)
            earlier.append(seconds / len(few))
        if number == 0:
            # What is compared gives the same answers.
            same = sum(one.markup == other.markup for one, other in zip(answers, alone))
            assert same >= 0.98 * len(few), f"only {same} of {len(few)} answers are the same"
            same = sum(one.markup == other.markup for one, other in zip(before, alone))
            assert same == len(few), f"only {same} of {len(few)} answers are those of before"
    return {
        "batched": 1 / min(batched),
        "single": 1 / min(single),
        "earlier_single": 1 / min(earlier),
        "batched_all": len(rows) / whole,
    }


def random_boxes(generator: np.random.Generator, count: int) -> list[list[float]]:
    """`xyxy` boxes in an image of 640x480 pixels."""
    corners = generator.uniform((0, 0), (600, 440), (count, 2))
    sizes = generator.uniform(5, 200, (count, 2))
    return np.concatenate([corners, np.minimum(corners + sizes, (640, 480))], axis=1).tolist()


def random_answers(count: int, boxes: int) -> list[Prediction]:
    """Answers with up to this many boxes each."""
    generator = np.random.default_rng(0)
    answers = []
    for index in range(count):
        found = random_boxes(generator, int(generator.integers(0, boxes + 1)))
        regions = Regions(np.array(found), generator.uniform(size=len(found)))
        answers.append(Prediction(index, str(index), "", [("", regions)], ""))
    return answers


def random_rows(count: int, targets: int) -> list[dict]:
    """Evaluation rows with one to so many targets each."""
    generator = np.random.default_rng(1)
    return [
        {
            "image_id": str(index),
            "category": f"category {index % LVIS_CATEGORIES}",
            "target_boxes_xyxy": random_boxes(generator, int(generator.integers(1, targets + 1))),
        }
        for index in range(count)
    ]


def seconds_of(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--single-rows", type=int, default=100)
    parser.add_argument("--questions", type=int, default=7, help="of an image, in the rows that share images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    model, processor = load_model(str(MODEL), "cpu")
    respondent = ChatRespondent(model, processor, rec.BENCHMARK.asking)
    speeds = {
        name: compare_batches(respondent, rows, arguments.batch_size, arguments.single_rows, arguments.repeats)
        for name, rows in (
            ("one image per row", shapes_dataset("rec", arguments.rows, seed=0, split="test", evaluation=True)),
            (f"{arguments.questions} rows per image", rows_of_shared_images(arguments.rows, arguments.questions)),
        )
    }
    ratios = {
        f"batch of {arguments.batch_size} vs single, {name}": speed["batched"] / speed["single"]
        for name, speed in speeds.items()
    }
    earlier = {
        f"single vs earlier single, {name}": speed["single"] / speed["earlier_single"]
        for name, speed in speeds.items()
    }

    rec_answers, rec_rows = random_answers(REC_ANSWERS, 2), random_rows(REC_ANSWERS, 1)
    lvis_answers, lvis_rows = random_answers(LVIS_ANSWERS, 20), random_rows(LVIS_ANSWERS, 15)
    seconds = {
        "score_rec": seconds_of(lambda: rec.score_rec(rec_answers, rec_rows)),
        "score_lvis_ground": seconds_of(lambda: lvis_ground.score_lvis_ground(lvis_answers, lvis_rows)),
    }
    print(
        f"groma-tiny, {arguments.rows} rows of REC, {arguments.threads} threads; rows per second of the fastest piece"
    )
    for (name, speed), ratio in zip(speeds.items(), ratios.values()):
        print(
            f"  {name:16s} in batches of {arguments.batch_size} {speed['batched']:8.2f} (all rows "
            f"{speed['batched_all']:.2f}), one by one {speed['single']:8.2f}: {ratio:5.2f}x"
        )
    for name, ratio in earlier.items():
        print(f"  {name}: {ratio:5.2f}x")
    print(f"scoring {REC_ANSWERS:,} answers of REC:         {seconds['score_rec']:6.2f} s (at most {REC_SECONDS:g})")
    print(
        f"scoring {LVIS_ANSWERS:,} answers of LVIS-Ground: {seconds['score_lvis_ground']:6.2f} s (at most "
        f"{LVIS_SECONDS:g})"
    )
    print_result("evaluation", ratios | earlier, seconds, rows_per_second=speeds)


if __name__ == "__main__":
    main()
