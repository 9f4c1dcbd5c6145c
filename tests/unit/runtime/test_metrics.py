"""Metrics and health over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from cyrusext.net.address import TcpAddress, bind
from cyrusext.runtime.histogram import Histogram
from cyrusext.runtime.metrics import MetricsServer, Values, new_registry

HELP = {
    "x_records": "Records by server.",
    "x_commits_total": "Commits.",
    "x_fresh": "Fresh.",
    "x_logins_total": "Logins.",
    "x_seconds": "Time.",
}

Ask = Callable[[bytes], Coroutine[Any, Any, bytes]]


def serve(scenario: Callable[[Ask, dict[str, str]], Coroutine[Any, Any, None]]) -> None:
    state = {"unready": ""}

    def values() -> Values:
        times = Histogram((0.1, 1.0))
        times.add(0.5)
        return {
            "x_records": {"be1": 3.0, 'odd"': 1.0},
            "x_commits_total": 7,
            "x_fresh": 1.0,
            "x_logins_total": {"PLAIN": 2},
            "x_seconds": times,
        }

    async def main() -> None:
        sockets = bind(TcpAddress("127.0.0.1", 0))
        port = sockets[0].getsockname()[1]
        registry = new_registry(values, HELP, {"x_logins_total": "mechanism"})
        server = MetricsServer(sockets, registry, lambda: state["unready"])
        await server.start()

        async def ask(raw: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(raw)
            answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            return answer

        await scenario(ask, state)
        await server.stop()

    asyncio.run(main())


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def test_metrics_are_read_when_asked_for() -> None:
    async def scenario(ask: Ask, state: dict[str, str]) -> None:
        answer = await ask(get("/metrics?x=y"))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b'\nx_records{server="be1"} 3.0\n' in answer
        assert b"\nx_commits_total 7.0\n" in answer
        assert b"\nx_fresh 1.0\n" in answer
        assert b'\nx_logins_total{mechanism="PLAIN"} 2.0\n' in answer
        assert b'\nx_seconds_bucket{le="0.1"} 0.0\nx_seconds_bucket{le="1"} 1.0\n' in answer
        assert b"\nx_seconds_count 1.0\nx_seconds_sum 0.5\n" in answer
        assert b"\nprocess_resident_memory_bytes " in answer
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"Content-Length: %d\r\n" % len(body) in head

    serve(scenario)


def test_alive_and_ready_are_two_questions() -> None:
    async def scenario(ask: Ask, state: dict[str, str]) -> None:
        assert (await ask(get("/readyz"))).endswith(b"\r\n\r\nready\n")
        state["unready"] = "still filling"
        answer = await ask(get("/readyz"))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert answer.endswith(b"\r\n\r\nstill filling\n")
        assert (await ask(get("/healthz"))).endswith(b"\r\n\r\nalive\n")

    serve(scenario)


def test_other_questions_get_an_answer_too() -> None:
    async def scenario(ask: Ask, state: dict[str, str]) -> None:
        assert (await ask(get("/"))).startswith(b"HTTP/1.1 404 ")
        assert (await ask(get("/metrics", "POST"))).startswith(b"HTTP/1.1 405 ")
        assert (await ask(get("/healthz", "HEAD"))).endswith(b"\r\n\r\n")
        assert await ask(b"x" * 20_000) == b""

    serve(scenario)
