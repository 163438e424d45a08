"""Metrics of all replicas in one text for Prometheus: each series says which replica it is of."""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


def merged_metrics(texts: Mapping[str, str]) -> bytes:
    """Merge the metrics of replicas.

    Args:
        texts (`Mapping`): by the name of a replica, its metrics in Prometheus' text format.

    Returns:
        `bytes`: one text in which each series has the label `replica`.

    Example:
    >>> print(merged_metrics({"a": "up 1\\n", "b": "up 0\\n"}).decode().splitlines()[-1])
    up{replica="b"} 0.0
    """
    registry = CollectorRegistry()
    registry.register(_Merged(texts))
    return generate_latest(registry)


class _Merged(Collector):
    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def describe(self) -> Iterable[Metric]:
        return []  # so that registering it reads nothing

    def collect(self) -> Iterator[Metric]:
        merged: dict[str, Metric] = {}
        for replica, text in self._texts.items():
            for family in text_string_to_metric_families(text):
                metric = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    metric.add_sample(sample.name, {**sample.labels, "replica": replica}, sample.value)
        yield from merged.values()


__all__ = ["merged_metrics"]
