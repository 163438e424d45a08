"""Metrics of several replicas in one text."""

from prometheus_client.parser import text_string_to_metric_families

from transformers_groma.serving.answers import EngineStatus
from transformers_groma.serving.metrics import ServerMetrics
from transformers_groma.serving.replica_metrics import merged_metrics

from .fake_engine import FakeEngine


def metrics_of(requests: int) -> str:
    metrics = ServerMetrics(FakeEngine().snapshot)
    for _ in range(requests):
        metrics.request("/health", 200, 0.2)
    metrics.first_token(0.5)
    return metrics.text().decode()


def series(text: str) -> dict[tuple[str, frozenset], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_each_series_says_whose_it_is():
    texts = {"a": metrics_of(2), "b": metrics_of(5)}
    merged = merged_metrics(texts).decode()
    expected = {
        (name, labels | {("replica", replica)}): value
        for replica, text in texts.items()
        for (name, labels), value in series(text).items()
    }
    assert series(merged) == expected
    assert 'groma_http_requests_total{endpoint="/health",replica="b",status="200"} 5.0' in merged
    assert 'groma_time_to_first_token_seconds_bucket{le="0.5",replica="a"} 1.0' in merged


def test_types_and_explanations_stay_and_come_once():
    merged = merged_metrics({"a": metrics_of(1), "b": metrics_of(1)}).decode()
    own = [line for line in metrics_of(1).splitlines() if line.startswith("#")]
    assert sorted(line for line in merged.splitlines() if line.startswith("#")) == sorted(own)


def test_there_may_be_none():
    assert merged_metrics({}) == b""
    assert isinstance(FakeEngine().snapshot(), EngineStatus)
