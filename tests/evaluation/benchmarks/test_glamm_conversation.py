"""GLaMM's protocols of grounded conversations: which of the usual metrics they have, and under which names."""

import pytest

from transformers_groma.evaluation.benchmarks import glamm_conversation as benchmark
from transformers_groma.evaluation.benchmarks import grounded_conversation as usual
from transformers_groma.evaluation.metrics import cider_meteor
from transformers_groma.evaluation.metrics.ptb_tokenizer import JavaMissingError

from .test_grounded_conversation import conversation, rle, rows_of, said

PROTOCOLS = [benchmark.RELEASE_BENCHMARK, benchmark.PAPER_BENCHMARK]


@pytest.fixture(autouse=True)
def without_java(monkeypatch):
    def missing():
        raise JavaMissingError("There is no Java.")

    monkeypatch.setattr(cider_meteor, "require_java", missing)


@pytest.mark.parametrize("chosen", PROTOCOLS, ids=lambda chosen: chosen.protocol)
def test_metrics_are_the_usual_ones_under_the_names_of_the_paper(chosen):
    """The better mask has other words: the script ends the image there, the paper's recall goes on."""
    rows = usual.grounded_conversation_rows(rows_of(conversation())).rows
    # The unsure mask is the right one: with scores it is ranked last, with scores of 1 first.
    answer = said(
        ("a cup", [rle("dog")], 0.1), ("two cats", [rle("left", "right", height=15)], 0.9), ("x", [rle("left")], 0.5)
    )
    expected = usual.score_grounded_conversations([answer], rows)
    found = chosen.score([answer], rows)
    assert set(found) == {metric.name for metric in chosen.metrics} - {"meteor"}
    assert found["miou"] == expected["miou"] and found["cider"] == expected["cider"]
    assert found["ap@0.5"] == expected["glamm_release_ap@0.5"] != expected["ap@0.5"]
    assert expected["mask_recall"] == 0.5 and expected["glamm_release_mask_recall"] == 0
    assert found["mask_recall"] == (0 if chosen.protocol == "glamm-release" else 0.5)


@pytest.mark.parametrize("chosen", PROTOCOLS, ids=lambda chosen: chosen.protocol)
def test_another_similarity_stays_with_the_protocol(chosen):
    def always(first, second):
        return [1.0] * len(first)

    other = chosen.with_similarity(always, "an encoder")
    assert (other.protocol, other.settings) == (chosen.protocol, {"text_similarity": "an encoder"})
    assert other.metrics == chosen.metrics and other.published == chosen.published
    rows = usual.grounded_conversation_rows(rows_of(conversation())).rows
    assert other.score([said(("a cup", [rle("dog")], 0.9))], rows)["mask_recall"] == 0.5
    assert chosen.score([said(("a cup", [rle("dog")], 0.9))], rows)["mask_recall"] == 0


@pytest.mark.parametrize(
    ("encoder", "values"),
    [
        ("bert-base-uncased", [0.418, 0.408, 0.396, 0.380]),
        ("google-bert/bert-base-uncased", [0.418, 0.408, 0.396, 0.380]),
        ("all-MiniLM-L6-v2", []),
        (usual.TOKEN_F1, []),
    ],
)
def test_the_published_mask_recall_is_by_one_encoder(encoder, values):
    """Metrics with different similarities do not compare; the paper's protocol has another recall in any case."""
    release, paper = (
        [entry.value for entry in chosen.with_similarity(None, encoder).published if entry.metric == "mask_recall"]
        for chosen in PROTOCOLS
    )
    assert release == values and paper == []


def test_every_row_is_asked_the_same():
    for chosen in PROTOCOLS:
        assert chosen.asking.kind == "grounded_description" and chosen.asking.max_new_tokens == 512
        assert chosen.asking.masks and chosen.needs_masks
    assert usual.BENCHMARK.asking.kind is None
