"""Start in order, stop in reverse, unwind on failure, end in time."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from cyrusext.runtime import systemd
from cyrusext.runtime.lifecycle import Lifecycle


class Part:
    def __init__(self, name: str, story: list[str], *, fails: str = "", stop_hangs: bool = False) -> None:
        self.name = name
        self._story, self._fails, self._stop_hangs = story, fails, stop_hangs

    async def start(self) -> None:
        self._story.append(f"start {self.name}")
        if self._fails == "start":
            raise RuntimeError(f"{self.name} does not start")

    async def stop(self) -> None:
        self._story.append(f"stop {self.name}")
        if self._fails == "stop":
            raise RuntimeError(f"{self.name} does not stop")
        if self._stop_hangs:
            await asyncio.Event().wait()


def test_parts_start_in_order_and_stop_in_reverse_on_sigterm() -> None:
    story: list[str] = []

    def ready() -> None:
        story.append("ready")
        os.kill(os.getpid(), signal.SIGTERM)

    assert asyncio.run(Lifecycle([Part("a", story), Part("b", story)]).run(ready)) == 0
    assert story == ["start a", "start b", "ready", "stop b", "stop a"]


def test_a_failed_start_stops_what_had_started_and_is_raised() -> None:
    story: list[str] = []
    lifecycle = Lifecycle([Part("a", story), Part("b", story, fails="start"), Part("c", story)])
    with pytest.raises(RuntimeError, match="b does not start"):
        asyncio.run(lifecycle.run())
    assert story == ["start a", "start b", "stop a"]


def test_a_part_that_fails_or_hangs_in_stop_does_not_keep_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    story: list[str] = []
    parts = [Part("a", story), Part("b", story, fails="stop"), Part("c", story, stop_hangs=True)]
    lifecycle = Lifecycle(parts, stop_timeout_s=0.05)
    assert asyncio.run(lifecycle.run(lambda: lifecycle.request_stop("done", 7))) == 7
    assert story[-3:] == ["stop c", "stop b", "stop a"]


def test_sighup_reloads_and_does_not_end(capfd: pytest.CaptureFixture[str]) -> None:
    story: list[str] = []

    async def reload() -> None:
        story.append("reload")
        os.kill(os.getpid(), signal.SIGINT)

    lifecycle = Lifecycle([Part("a", story)])
    assert asyncio.run(lifecycle.run(lambda: os.kill(os.getpid(), signal.SIGHUP), reload=reload)) == 0
    assert story == ["start a", "reload", "stop a"]


def test_systemd_hears_ready_alive_and_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "20000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)

        async def run() -> None:
            lifecycle = Lifecycle([])
            running = asyncio.create_task(lifecycle.run())
            heard: list[str] = []
            while heard.count("WATCHDOG=1") < 3:
                heard.append(await asyncio.to_thread(lambda: listener.recv(100).decode()))
            lifecycle.request_stop("done")
            await running
            while heard[-1] != "STOPPING=1":
                heard.append(listener.recv(100).decode())
            assert heard[0] == "READY=1"

        asyncio.run(run())


def test_systemd_hears_of_a_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)

        async def run() -> None:
            done = asyncio.Event()

            async def reload() -> None:
                done.set()
                raise RuntimeError("a fault of ours")

            lifecycle = Lifecycle([])
            running = asyncio.create_task(lifecycle.run(lambda: os.kill(os.getpid(), signal.SIGHUP), reload=reload))
            await done.wait()
            heard = [await asyncio.to_thread(lambda: listener.recv(100).decode()) for _ in range(3)]
            assert heard[0] == "READY=1"
            assert heard[1].startswith("RELOADING=1\nMONOTONIC_USEC=")
            assert int(heard[1].rpartition("=")[2]) > 0
            assert heard[2] == "READY=1"
            lifecycle.request_stop("done")
            assert await running == 0

        asyncio.run(run())


def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert systemd.notify("READY=1") is False
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/socket")
    assert systemd.notify("READY=1") is False


def test_the_watchdog_is_ours_only_when_systemd_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert systemd.watchdog_period_s() is None
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    assert systemd.watchdog_period_s() == 1.5
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert systemd.watchdog_period_s() is None
