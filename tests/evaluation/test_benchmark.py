"""Benchmarks: defaults, verdicts of scores, and names of rows."""

import pytest

from transformers_groma.evaluation.benchmark import (
    PARTLY_RIGHT,
    RIGHT,
    WRONG,
    Asking,
    Benchmark,
    Metric,
    answer_and_target_boxes,
    row_name,
    rows_without_image,
    verdict_of_score,
)

from .samples import BOX, answer, rec_dataset, rec_row


@pytest.mark.parametrize(
    ("score", "verdict"), [(0.0, WRONG), (0.01, PARTLY_RIGHT), (0.99, PARTLY_RIGHT), (1.0, RIGHT)]
)
def test_an_answer_is_right_with_the_full_score_and_wrong_without_any(score, verdict):
    assert verdict_of_score(score, answer(), rec_row()) == verdict


def test_the_boxes_of_an_answer_are_compared_with_those_of_the_row():
    assert answer_and_target_boxes(answer(boxes=[[1, 2, 3, 4]]), rec_row()) == ([[1, 2, 3, 4]], [BOX])
    for row in (rec_row(target_boxes_xyxy=None), {"image_id": "0"}):
        assert answer_and_target_boxes(answer(), row) == ([], [])


def test_rows_are_read_without_their_images():
    rows = rows_without_image(rec_dataset(2))
    assert [row["image_id"] for row in rows] == ["0", "1"] and "image" not in rows[0]
    assert row_name(1, rows[1]) == "Row 1 (image_id '1')"


def test_a_benchmark_asks_in_the_words_of_its_rows_and_has_no_judge_unless_it_says_so():
    benchmark = Benchmark("a", "A", ("evaluation",), None, None, None, None, (Metric("ap", "average precision"),))
    assert benchmark.asking == Asking(task=None, max_new_tokens=None, prompt_seed=None)
    assert benchmark.model_types == ("groma",) and benchmark.target_name == "Expected box"
    assert benchmark.review is None and benchmark.read_published is None and not benchmark.plots
    assert (benchmark.drawn_boxes, benchmark.verdict) == (answer_and_target_boxes, verdict_of_score)
    assert benchmark.metrics[0].is_share  # papers print shares times 100
