"""Metrics and health over HTTP: ``/metrics`` (Prometheus), ``/healthz`` (alive), ``/readyz`` (may serve).

Rule: one request per connection, answered within a bound; what is measured is read when it is asked for, so that
counting costs the mail nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from cyrusext.errors import ConfigError
from cyrusext.runtime.histogram import Histogram

REQUEST_S = 5.0
"""How long a request may take, in seconds."""
MAX_HEAD = 8 << 10
"""Longest request head in bytes."""
MAX_CONNECTIONS = 64

Label = str | tuple[str, ...]
Values = Mapping[str, float | Mapping[Label, float] | Mapping[str, float] | Mapping[str, Histogram] | Histogram]
"""Metric → value, or → value by what its label or labels say, or → how often which duration, or that by a label."""
DEFAULT_LABEL = "server"


class _Read(Collector):
    """Asks for the values at each scrape."""

    def __init__(
        self, values: Callable[[], Values], help_texts: Mapping[str, str], labels: Mapping[str, Label]
    ) -> None:
        self._values, self._help, self._labels = values, help_texts, labels

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for name, value in self._values().items():
            text = self._help[name]
            if isinstance(value, Histogram):
                yield HistogramMetricFamily(name, text, buckets=value.cumulative(), sum_value=value.total)
            elif isinstance(value, Mapping):
                yield self._labelled(name, text, value)
            elif name.endswith("_total"):
                yield CounterMetricFamily(name, text, value=value)
            else:
                yield GaugeMetricFamily(name, text, value=value)

    def _labelled(self, name: str, text: str, values: Mapping[Any, float | Histogram]) -> Metric:
        names = _several(self._labels.get(name, DEFAULT_LABEL))
        if any(isinstance(value, Histogram) for value in values.values()):
            histograms = HistogramMetricFamily(name, text, labels=names)
            for label, value in values.items():
                assert isinstance(value, Histogram)
                histograms.add_metric(_several(label), buckets=value.cumulative(), sum_value=value.total)
            return histograms
        family = (CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily)(name, text, labels=names)
        for label, value in values.items():
            assert not isinstance(value, Histogram)
            family.add_metric(_several(label), value)
        return family


def _several(label: Label) -> tuple[str, ...]:
    return (label,) if isinstance(label, str) else label


def new_registry(
    values: Callable[[], Values], help_texts: Mapping[str, str], labels: Mapping[str, Label] | None = None
) -> CollectorRegistry:
    """Return a registry of the process's own figures and of what `values` returns at each scrape.

    `labels` names the label, or labels, of a metric that has values by something else than the server.
    """
    registry = CollectorRegistry()
    for kind in (ProcessCollector, PlatformCollector, GCCollector):
        kind(registry=registry)
    registry.register(_Read(values, help_texts, labels or {}))
    return registry


class MetricsServer:
    """Answers on bound `sockets`, which it owns from `start` on; `unready` says why we may not serve, or ""."""

    name = "metrics"

    def __init__(
        self, sockets: Sequence[socket.socket], registry: CollectorRegistry, unready: Callable[[], str]
    ) -> None:
        self._sockets, self._registry, self._unready = sockets, registry, unready
        self._servers: dict[socket.socket, asyncio.Server] = {}
        self._open = 0

    async def start(self) -> None:
        await self.listen(self._sockets)

    async def stop(self) -> None:
        self.leave(tuple(self._servers))

    async def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Answer on more bound `sockets`.  Raises ConfigError where one can not be listened on, and then on none."""
        for count, sock in enumerate(sockets):
            try:
                self._servers[sock] = await asyncio.start_server(self._serve, sock=sock, limit=MAX_HEAD)
            except OSError as error:  # somebody else began to listen since it was bound
                self.leave(sockets[:count])
                raise ConfigError(f"can not listen on {sock.getsockname()}: {error.strerror or error}") from error

    def leave(self, sockets: Sequence[socket.socket]) -> None:
        """Answer on these no more."""
        for sock in sockets:
            self._servers.pop(sock).close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= MAX_CONNECTIONS:
                async with asyncio.timeout(REQUEST_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head))
                    await writer.drain()
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # no request that could be answered
        finally:
            self._open -= 1
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        kind = "text/plain; charset=utf-8"
        if method not in (b"GET", b"HEAD"):
            status, body = "405 Method Not Allowed", b"only GET and HEAD\n"
        elif path == b"/metrics":
            status, body, kind = "200 OK", generate_latest(self._registry), CONTENT_TYPE_LATEST
        elif path == b"/healthz":
            status, body = "200 OK", b"alive\n"
        elif path == b"/readyz":
            reason = self._unready()
            status, body = ("503 Service Unavailable", reason.encode() + b"\n") if reason else ("200 OK", b"ready\n")
        else:
            status, body = "404 Not Found", b"there are /metrics, /healthz and /readyz\n"
        lines = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        return lines.encode() + (b"" if method == b"HEAD" else body)
