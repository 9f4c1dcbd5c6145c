"""The router under half load for a long time, while its backends are killed and restarted: does it stay as it is?

    python -m tests.faults.soak [--seconds 900] [--seed 1]          # what `make soak` runs

One router with one worker, two backends that are processes of their own (soak_sink.py), and clients that behave as
Postfix does: a recipient that was not told 250 is sent to again, alone, until he is.  First full speed for a few
seconds; half of that is the load.  Every few seconds a backend is killed, or stopped for a while.  At the end each
message has to be in the file of each recipient's backend, and the worker must not have grown, in memory or descriptors.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from tests.harness.lmtp_peer import LmtpClient, listening_socket
from tests.harness.router_daemon import CHECKOUT, Daemon

CLIENTS = 20
FULL_SPEED_S = 4.0
RETRY_S = 0.3
FAULT_EVERY_S = 4.0
"""On average."""
LAST_S = 60.0
"""What the messages that still wait may take when the backends are left alone."""
RSS_GROWTH_KIB = 4096
FD_GROWTH = 8
USERS = (b"alice", b"bob")
"""At the backends a and b (router_daemon.Daemon)."""
CONFIG = (
    "timeouts = { connect = 1.0, greeting = 1.0, envelope = 2.0, data = 2.0, final = 2.0, idle = 60.0 }\n"
    'max_size = "10MiB"\n'
)


class SinkProcess:
    """One backend, its file, and what is done to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.spawn()

    def spawn(self) -> None:
        if not self.port:
            with listening_socket() as sock:
                self.port = sock.getsockname()[1]
        command = [sys.executable, "-m", "tests.faults.soak_sink", str(self.port), str(self.path)]
        self.process = subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def stop(self) -> None:
        self.kill()

    def kept(self) -> Counter[tuple[int, bytes]]:
        """Message and user -> how often it is in the file."""
        found: Counter[tuple[int, bytes]] = Counter()
        if self.path.exists():
            for line in self.path.read_bytes().splitlines():
                number, _, user = line.partition(b" ")
                found[int(number), user] += 1
        return found


@dataclass
class Figures:
    """What came of it."""

    seconds: float = 0.0
    full_rate: float = 0.0
    rate: float = 0.0
    messages: int = 0
    told: int = 0
    deferred: int = 0
    dropped: int = 0
    kills: int = 0
    stops: int = 0
    lost: int = 0
    false_250: int = 0
    twice: int = 0
    odd: list[bytes] = field(default_factory=list)
    """Replies that are neither 250 nor 451."""
    rss_kib: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    most_descriptors: int = 1 << 20
    """What all clients need at once, each with a connection to each backend, beside what the idle worker has."""
    express: int = 1
    """Transactions that went the short way to their end."""

    def quarters(self, samples: list[int]) -> tuple[float, float]:
        """The medians of the second quarter and of the last."""
        quarter = max(1, len(samples) // 4)
        return statistics.median(samples[quarter : 2 * quarter]), statistics.median(samples[-quarter:])

    def findings(self) -> list[str]:
        """What must not be."""
        found = []
        for what, count in (("lost", self.lost), ("false 250", self.false_250), ("odd replies", len(self.odd))):
            if count:
                found.append(f"{count} {what} {self.odd[:3] if what == 'odd replies' else ''}".rstrip())
        early, late = self.quarters(self.rss_kib)
        if late - early > RSS_GROWTH_KIB:
            found.append(f"KiB of RSS grew from {early:g} to {late:g}")
        # A backend that is down for a quarter takes its connections with it: what must not be passed is what all had.
        most, late = max(self.descriptors[: len(self.descriptors) // 2]), self.quarters(self.descriptors)[1]
        if late - most > FD_GROWTH:
            found.append(f"descriptors grew from {most:g} to {late:g}")
        if max(self.descriptors) > self.most_descriptors:
            found.append(f"{max(self.descriptors)} descriptors, where {self.most_descriptors} are enough")
        if not self.express:
            found.append("nothing went the short way")
        if not (self.kills and self.deferred):
            found.append("no backend was killed, or nobody noticed")
        return found

    def text(self) -> str:
        rss, descriptors = self.quarters(self.rss_kib), self.quarters(self.descriptors)
        return (
            f"{self.seconds:.0f} s, {self.rate:.0f} messages/s (full speed here: {self.full_rate:.0f}),"
            f" {self.messages} messages, {self.told} recipients told 250, {self.deferred} deferred,"
            f" {self.dropped} connections lost,"
            f" {self.kills} kills and {self.stops} stops of backends\n"
            f"lost {self.lost}, false 250 {self.false_250}, kept twice {self.twice}\n"
            f"worker: RSS {rss[0] / 1024:.1f} MiB in the second quarter, {rss[1] / 1024:.1f} MiB in the last (most"
            f" {max(self.rss_kib) / 1024:.1f}); descriptors {descriptors[0]:g}, {descriptors[1]:g}"
            f" (most {max(self.descriptors)}, enough {self.most_descriptors}); {self.express} transactions went the"
            " short way"
        )


class OneWorker(Daemon):
    """The one whose memory is looked at."""

    def configure(self, extra: str, workers: int = 1) -> None:
        super().configure(extra, workers)


class Soak:
    """One run."""

    def __init__(self, place: Path, seconds: float, seed: int) -> None:
        self.figures = Figures(seconds=seconds)
        self.router = OneWorker(place, CONFIG)
        self.sinks = {name: SinkProcess(place / f"kept-{name}") for name in "ab"}
        self.router.backends = self.sinks  # type: ignore[assignment]
        self._seconds = seconds
        self._chance = random.Random(seed)
        self._told: set[tuple[int, bytes]] = set()
        self._rate = 0.0
        """Messages per second, 0 for as many as can be."""
        self._next = 0.0
        self._ending = False

    async def run(self) -> Figures:
        beating = asyncio.create_task(self.router.beat())
        try:
            await self.router.start()
            await self._run()
        finally:
            beating.cancel()
            await self.router.stop()
        figures = self.figures
        kept = self.sinks["a"].kept() + self.sinks["b"].kept()
        wanted = {(number, user) for number in range(figures.messages) for user in USERS}
        figures.told = len(self._told)
        figures.lost = len(wanted - kept.keys())
        figures.false_250 = len(self._told - kept.keys())
        figures.twice = sum(count > 1 for count in kept.values())
        return figures

    async def _run(self) -> None:
        figures, loop = self.figures, asyncio.get_running_loop()
        (worker,) = self.router.workers()
        figures.most_descriptors = descriptors(worker) + CLIENTS * (1 + len(self.sinks)) + FD_GROWTH
        clients = [asyncio.create_task(self._send_on()) for _ in range(CLIENTS)]
        begun = loop.time()
        await asyncio.sleep(FULL_SPEED_S)
        figures.full_rate = figures.messages / (loop.time() - begun)
        figures.rate = self._rate = figures.full_rate / 2
        self._next = loop.time()
        troubles = asyncio.create_task(self._trouble())
        watch = asyncio.create_task(self._watch())
        await asyncio.sleep(self._seconds)
        for task in (troubles, watch):
            assert not task.done(), task.exception()
            task.cancel()
        for sink in self.sinks.values():
            if sink.process is None:
                sink.spawn()
            sink.signal(signal.SIGCONT)
        self._ending = True
        await asyncio.wait_for(asyncio.gather(*clients), LAST_S)
        figures.express = (await self.router.status())["express"]

    async def _send_on(self) -> None:
        """One client: message after message, each until everybody was told 250."""
        client: LmtpClient | None = None
        while not self._ending:
            await self._turn()
            if self._ending:
                break
            number = self.figures.messages
            self.figures.messages += 1
            size = self._chance.choice((200, 4096, 4096, 4096, 4096, 100_000))
            body = b"Subject: soak-%d\r\n\r\n" % number + (b"x" * 76 + b"\r\n") * (size // 78)
            left = list(USERS)
            while left:
                try:
                    client = client or await self._connect()
                    left = await self._send(client, number, body, left)
                except (AssertionError, OSError, asyncio.IncompleteReadError, TimeoutError):
                    self.figures.dropped += 1
                    if client is not None:
                        client.writer.transport.abort()
                    client = None
                if left:
                    await asyncio.sleep(RETRY_S)
        if client is not None:
            client.close()

    async def _connect(self) -> LmtpClient:
        client = LmtpClient(*await asyncio.open_connection("127.0.0.1", self.router.port))
        assert (await client.reply()).startswith(b"220")
        assert (await client.ask(b"LHLO soak")).startswith(b"250")
        return client

    async def _turn(self) -> None:
        """Wait for the time of the next message."""
        if not self._rate:
            return
        self._next += 1 / self._rate
        await asyncio.sleep(max(0.0, self._next - asyncio.get_running_loop().time()))

    async def _send(self, client: LmtpClient, number: int, body: bytes, users: list[bytes]) -> list[bytes]:
        """One transaction; returns who has to be tried again.  Every other one is said as Postfix does, at once."""
        at_once = number % 2 == 0
        commands = [b"MAIL FROM:<from@example.org>\r\n", *(b"RCPT TO:<%b@example.org>\r\n" % user for user in users)]
        client.send(b"".join([*commands, b"DATA\r\n"] if at_once else commands))
        assert (await client.reply()).startswith(b"250")
        accepted: list[bytes] = []
        left: list[bytes] = []
        for user, reply in zip(users, await client.replies(len(users)), strict=True):
            (accepted if self._good(reply) else left).append(user)
        if not accepted:
            if at_once:
                assert (await client.reply()).startswith(b"554 5.5.1")
            else:
                assert (await client.ask(b"RSET")).startswith(b"250")
            return left
        if not at_once:
            client.send(b"DATA\r\n")
        assert (await client.reply()).startswith(b"354")
        client.send(body + b".\r\n")
        for user in accepted:
            if self._good(await client.reply()):
                self._told.add((number, user))
            else:
                left.append(user)
        return left

    def _good(self, reply: bytes) -> bool:
        if reply.startswith(b"250 "):
            return True
        self.figures.deferred += 1
        if not reply.startswith(b"451 "):
            self.figures.odd.append(reply)
        return False

    async def _trouble(self) -> None:
        """Kill or stop a backend, for as long as it comes."""
        while True:
            await asyncio.sleep(self._chance.uniform(0.5, 2 * FAULT_EVERY_S - 0.5))
            sink, pause_s = self.sinks[self._chance.choice("ab")], self._chance.uniform(0.1, 2.5)
            if self._chance.random() < 0.7:
                self.figures.kills += 1
                sink.kill()
                await asyncio.sleep(pause_s)
                sink.spawn()
            else:
                self.figures.stops += 1
                sink.signal(signal.SIGSTOP)
                await asyncio.sleep(pause_s)
                sink.signal(signal.SIGCONT)

    async def _watch(self) -> None:
        """Look at the worker once a second; what it logged is thrown away."""
        (worker,) = self.router.workers()
        while True:
            await asyncio.sleep(1.0)
            self.figures.rss_kib.append(rss_kib(worker))
            self.figures.descriptors.append(descriptors(worker))
            os.truncate(self.router.log, 0)


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def rss_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def soak(place: Path, seconds: float, seed: int) -> Figures:
    """Run it; the figures say what came of it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Soak(place, seconds, seed).run())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--seed", type=int, default=20261130)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak") as place:
        figures = soak(Path(place), arguments.seconds, arguments.seed)
    print(f"seed {arguments.seed}: {figures.text()}")
    findings = figures.findings()
    print("\n".join(findings) or "nothing lost, nothing claimed, nothing grown")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
