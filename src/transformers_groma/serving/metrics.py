"""Metrics of the server for Prometheus: requests, times, tokens, and what the engine says of itself."""

from collections.abc import Callable, Iterator

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .answers import EngineStatus

# The format of `ServerMetrics.text`, which all versions of Prometheus read.
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
# How the engine's numbers are named: name of the metric, of the number, and what it means.
_GAUGES = (
    ("groma_requests_waiting", "waiting", "Requests that wait for a batch"),
    ("groma_requests_preparing", "preparing", "Those of them whose prompts are still being prepared"),
    ("groma_requests_running", "running", "Requests in the batch that the model works on"),
    ("groma_cached_images", "cached_images", "Perceived images that are kept"),
)
_COUNTERS = (
    ("groma_batches", "batches", "How often prompts were read: those that begin a batch, or that join one together"),
    (
        "groma_batched_requests",
        "batched_requests",
        "Requests whose prompts were read; divided by groma_batches, how many at a time",
    ),
    ("groma_requests_answered", "answered", "Requests of the engine that got an answer"),
    ("groma_requests_failed", "failed", "Requests of the engine that ended with an error of the model"),
    ("groma_requests_invalid", "invalid", "Requests of the engine that cannot be answered as they are"),
    ("groma_requests_cancelled", "cancelled", "Requests of the engine whose client left"),
    ("groma_requests_refused", "refused", "Requests that found the queue full"),
    ("groma_image_cache_hits", "cache_hits", "Images that had been looked at before"),
    ("groma_image_cache_misses", "cache_misses", "Images that the model had to look at"),
    ("groma_prompt_tokens", "prompt_tokens", "Tokens of prompts"),
    ("groma_generated_tokens", "generated_tokens", "Tokens of answers"),
    ("groma_model_busy_seconds", "busy_seconds", "Time that the model worked"),
)


class ServerMetrics:
    """Counts what a server does, in a registry of its own.

    Args:
        status (`Callable`): what the engine is doing, see [`EngineStatus`].
    """

    def __init__(self, status: Callable[[], EngineStatus]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "groma_http_requests",
            "HTTP requests by endpoint and status; 499 is a client that left",
            ["endpoint", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "groma_http_request_seconds",
            "Time from the head of a request to the end of its answer",
            ["endpoint"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._first_token = Histogram(
            "groma_time_to_first_token_seconds",
            "Time from the head of a request to the first text of a streamed answer",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._images = Counter(
            "groma_image_downloads",
            "Images that were fetched from URLs, by result",
            ["result"],
            registry=self._registry,
        )
        self._registry.register(_EngineCollector(status))

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def first_token(self, seconds: float) -> None:
        """Count the first text of a streamed answer."""
        self._first_token.observe(seconds)

    def download(self, result: str) -> None:
        """Count an image that was fetched (`"ok"`) or not (`"error"`)."""
        self._images.labels(result).inc()

    def text(self) -> bytes:
        """All metrics, in Prometheus' text format."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    """Reads the engine's numbers when they are asked for."""

    def __init__(self, status: Callable[[], EngineStatus]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        for name, number, meaning in _GAUGES:
            yield GaugeMetricFamily(name, meaning, getattr(status, number))
        if status.language_server is not None:
            meaning = "Whether the language server that writes the words is there and is the right one"
            yield GaugeMetricFamily("groma_language_server_up", meaning, status.language_server == "ok")
        for name, number, meaning in _COUNTERS:
            yield CounterMetricFamily(name, meaning, getattr(status, number))


__all__ = ["CONTENT_TYPE", "ServerMetrics"]
