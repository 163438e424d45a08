"""GLaMM's protocols of referring segmentation: drawn rows, and the two metrics."""

import pytest

from transformers_groma.evaluation.benchmark import Asking
from transformers_groma.evaluation.benchmarks import glamm_segmentation as benchmark
from transformers_groma.evaluation.respondents import ChatRespondent

from ...training.rows import training_model, training_processor
from .test_referring_segmentation import SQUARE, answer, rle, row, rows_of


def test_metrics_by_hand():
    answers = [answer(0, SQUARE), answer(1, rle(8, 8, 40, 24)), answer(2)]
    rows = [row(index) for index in range(3)]
    assert benchmark.score_ciou_giou(answers, rows) == {"ciou": 0.5, "giou": 0.5}
    assert benchmark.score_ciou(answers, rows) == {"ciou": 0.5}


def test_the_release_draws_three_expressions_of_an_image():
    counts = {"a": 7, "b": 2, "c": 3, "d": 4}
    rows = [row(0, image_id=image) for image, count in counts.items() for _ in range(count)]
    rows = [{**entry, "category": str(number)} for number, entry in enumerate(rows)]
    drawn = benchmark.glamm_release_rows(rows_of(*rows))
    images = [entry["image_id"] for entry in drawn.rows]
    assert images == drawn.asked["image_id"][:] == ["a"] * 3 + ["b"] * 2 + ["c"] * 3 + ["d"] * 3
    numbers = [int(entry["category"]) for entry in drawn.rows]
    assert numbers == sorted(set(numbers)) and numbers[:3] != [0, 1, 2]
    # Again the same, also where other images are missing or come in another order.
    again = benchmark.glamm_release_rows(rows_of(*rows[9:], *rows[:9]))
    assert {entry["category"] for entry in again.rows} == {entry["category"] for entry in drawn.rows}
    # Images without a name are all different ones, as are those of another dataset.
    nameless = [row(0, image_id="")] * 5 + [row(0, image_id="a", source="other")]
    assert len(benchmark.glamm_release_rows(rows_of(*nameless)).rows) == 6


def test_every_drawn_row_knows_its_conversation():
    rows = [
        row(0, image_id=image, messages=[asked(f"thing {number} of {image}")])
        for image, count in {"a": 5, "b": 2}.items()
        for number in range(count)
    ]
    drawn = benchmark.glamm_release_rows(rows_of(*rows))
    for told, scored in zip(drawn.asked, drawn.rows, strict=True):
        assert told["expressions"] == scored["expressions"] and told["turn"] == scored["turn"]
        # Its own expression is at its place.
        own = next(part["text"] for part in told["messages"][-1]["content"] if part["type"] == "phrase")
        assert told["expressions"][told["turn"]] == own
    by_image = {entry["image_id"]: entry["expressions"] for entry in drawn.rows}
    assert [len(expressions) for expressions in by_image.values()] == [3, 2]
    assert sorted(entry["turn"] for entry in drawn.rows if entry["image_id"] == "a") == [0, 1, 2]


def test_a_row_that_asks_for_nothing_is_named():
    nothing = row(1, messages=[{"role": "user", "content": [{"type": "text", "text": "Hello.", "boxes": []}]}])
    with pytest.raises(ValueError, match=r"Row 1 \(image_id '1'\) does not ask for a phrase"):
        benchmark.glamm_release_rows(rows_of(row(0), nothing))


def test_how_both_protocols_ask():
    release = benchmark.RELEASE_BENCHMARK
    assert release.asking == Asking("rec", max_new_tokens=16, prompt_seed=0, masks=True)
    assert [metric.name for metric in release.metrics] == ["ciou", "giou"]
    model = training_model(), training_processor()
    respondent = release.respondent(*model, release.asking)
    assert isinstance(respondent, ChatRespondent)  # a Groma cannot be given its answers
    assert len({respondent.question(row(0, image_id=str(image))) for image in range(30)}) > 3  # the wording is drawn
    paper = benchmark.PAPER_BENCHMARK
    assert paper.asking == Asking("rec", max_new_tokens=512, masks=True, kind="rec")
    assert [metric.name for metric in paper.metrics] == ["ciou"] and paper.published == ()
    assert paper.prepare is not release.prepare


def asked(phrase: str) -> dict:
    """A question for a phrase."""
    content = [{"type": "image", "text": "", "boxes": []}, {"type": "phrase", "text": phrase, "boxes": []}]
    return {"role": "user", "content": content}
