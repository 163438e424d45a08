"""GLaMM's protocols of region captions: one box an image, or all of them."""

from transformers_groma.evaluation.benchmark import Asking
from transformers_groma.evaluation.benchmarks import glamm_region_caption as benchmark
from transformers_groma.evaluation.benchmarks import region_caption
from transformers_groma.evaluation.metrics import cider_meteor
from transformers_groma.evaluation.metrics.ptb_tokenizer import JavaMissingError

from ..samples import answer, caption_row, dataset


def test_the_release_asks_about_the_first_box_of_each_image():
    rows = [caption_row(0, image_id=image, references=[f"{image} {number}"]) for number, image in enumerate("abacb")]
    asked = benchmark.one_box_rows(dataset(rows))
    assert [row["references"] for row in asked.rows] == [["a 0"], ["b 1"], ["c 3"]]
    assert asked.asked["references"][:] == [["a 0"], ["b 1"], ["c 3"]]
    assert len(benchmark.PAPER_BENCHMARK.prepare(dataset(rows)).rows) == 5


def test_metrics_are_those_of_the_paper(monkeypatch):
    def missing():
        raise JavaMissingError("There is no Java.")

    monkeypatch.setattr(cider_meteor, "require_java", missing)
    rows = [caption_row(index) for index in range(2)]
    answers = [answer(0, "A red square."), answer(1, "A blue circle.")]
    usual = region_caption.score_region_captions(answers, rows)
    assert benchmark.score_meteor_cider(answers, rows) == {"cider": usual["cider"]}
    assert [metric.name for metric in benchmark.METRICS] == ["cider", "meteor"]


def test_both_ask_in_the_standard_question_of_the_model():
    for chosen in (benchmark.RELEASE_BENCHMARK, benchmark.PAPER_BENCHMARK):
        assert chosen.asking == Asking("region_caption", max_new_tokens=512, kind="region_caption")
        assert chosen.model_types == ("groma", "glamm")
