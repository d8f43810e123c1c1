"""What `/metrics` shows: requests, latencies, batches and the queue, in the format of Prometheus."""

import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SENTENCES = (1, 2, 4, 8, 16, 32, 64, 128)


class Counters:
    """The counters of one app, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own: dict[str, Any] = {"namespace": "mtl_hf", "registry": self.registry}
        self.requests = Counter("requests", "Requests, by path and status.", ["path", "status"], **own)
        self.seconds = Histogram("request_seconds", "Seconds of a request.", ["path"], buckets=_SECONDS, **own)
        self.batches = Histogram("batch_sentences", "Sentences in a batch.", buckets=_SENTENCES, **own)
        self.batch_seconds = Histogram("batch_seconds", "Seconds of a batch.", buckets=_SECONDS, **own)
        self.cpu_seconds = Counter("inference_cpu_seconds", "CPU seconds of the thread of the model.", **own)
        self.cut = Counter("cut_sentences", "Sentences that were truncated.", **own)
        self.failed = Counter("failed_sentences", "Sentences for which the model failed.", **own)
        self._waiting = Gauge("waiting_sentences", "Sentences that wait for the model.", **own)

    def watch_queue(self, waiting: Callable[[], float]) -> None:
        """Show the length of a queue, as a function returns it."""
        self._waiting.set_function(waiting)

    def count_batch(self, sentences: int, seconds: float, cpu_seconds: float, cut: int) -> None:
        """Count a batch that was answered."""
        self.batches.observe(sentences)
        self.batch_seconds.observe(seconds)
        self.cpu_seconds.inc(cpu_seconds)
        self.cut.inc(cut)

    def text(self) -> bytes:
        """All counters, for `/metrics`."""
        found: bytes = generate_latest(self.registry)
        return found


class Counting:
    """ASGI middleware: count requests and their seconds, by the path of the route.

    Args:
        app: The app.
        counters: The counters.
    """

    def __init__(self, app: Any, counters: Counters) -> None:
        self.app = app
        self.counters = counters

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), "500"

        async def counted(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                message["headers"] = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            # Not the path of the request: anything could be asked for, and each would be a line.
            path = getattr(scope.get("route"), "path", "other")
            self.counters.requests.labels(path, status).inc()
            self.counters.seconds.labels(path).observe(time.perf_counter() - began)
