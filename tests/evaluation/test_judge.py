"""The judge model: the options of the papers, and where each setting goes."""

from transformers_groma.endpoints.asking import Budget
from transformers_groma.evaluation.judge import Judge, judge_of


def test_a_judge_is_asked_as_in_the_papers(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    judge = judge_of("some-model")
    assert (judge.endpoint.model, judge.endpoint.base_url, judge.endpoint.api_key) == ("some-model", None, "secret")
    assert judge.endpoint.options == {"temperature": 0.2, "max_tokens": 1024}
    assert judge == Judge(judge.endpoint, concurrency=8, requests_per_minute=None, budget=Budget(0.0, 0.0, None))
    assert judge == Judge(judge.endpoint)


def test_settings_of_a_judge_go_where_they_belong(monkeypatch):
    monkeypatch.setenv("STUB_KEY", "other")
    judge = judge_of(
        "some-model",
        "http://localhost/v1",
        "STUB_KEY",
        concurrency=2,
        requests_per_minute=30.0,
        price_in=2.0,
        price_out=8.0,
        max_cost=0.5,
    )
    assert (judge.endpoint.base_url, judge.endpoint.api_key) == ("http://localhost/v1", "other")
    assert (judge.concurrency, judge.requests_per_minute) == (2, 30.0)
    assert (judge.budget.price_in, judge.budget.price_out, judge.budget.max_cost) == (2.0, 8.0, 0.5)
