"""Region captioning as a benchmark."""

import logging

import pytest

from transformers_groma.evaluation.benchmarks import region_caption
from transformers_groma.evaluation.metrics import cider_meteor as caption_metrics
from transformers_groma.evaluation.metrics.ptb_tokenizer import JavaMissingError

from ..samples import answer, caption_row, dataset

ROWS = [
    {"references": ["A large red square.", "the square on the left"]},
    {"references": ["two small dogs"]},
    {"references": ["A man in a hat."]},
]


@pytest.fixture
def without_java(monkeypatch):
    def missing():
        raise JavaMissingError("There is no Java. apt-get install -y default-jre-headless")

    monkeypatch.setattr(caption_metrics, "require_java", missing)


def test_metrics_without_java(without_java, caplog):
    answers = [answer(0, "a large red square"), answer(1, "Two dogs."), answer(2, "")]
    with caplog.at_level(logging.WARNING):
        metrics = region_caption.score_region_captions(answers, ROWS)
    assert metrics["exact_match"] == pytest.approx(1 / 3)
    assert metrics["cider"] > 1 and "meteor" not in metrics
    assert "default-jre-headless" in caplog.text
    better = [answer(0, "a large red square"), answer(1, "two small dogs"), answer(2, "")]
    assert region_caption.score_region_captions(better, ROWS)["cider"] > metrics["cider"]


def test_the_worst_answers_share_no_words():
    answers = [answer(0, "a large red square"), answer(1, "two dogs"), answer(2, "a cat"), answer(2, "")]
    rows = [*ROWS, ROWS[2]]
    assert region_caption.score_region_caption_rows(answers, rows) == pytest.approx([1, 0.8, 2 / 7, 0])


def test_rows_are_checked():
    assert len(region_caption.region_caption_rows(dataset([caption_row()])).rows) == 1
    with pytest.raises(ValueError, match=r"Row 0 \(image_id '0'\) has no `references`"):
        region_caption.region_caption_rows(dataset([caption_row(references=[])]))


def test_the_paper_on_the_same_scale():
    values = {(entry.dataset, entry.metric): entry.value for entry in region_caption.PUBLISHED}
    assert values["refcocog", "cider"] == 1.073 and values["visual_genome", "meteor"] == 0.19
