"""The router in operation: what it tells of itself, new configurations, workers that hang or die, all under load."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from pathlib import Path

import pytest

from tests.harness.lmtp_peer import LmtpClient, Script, listening_socket, play, wait_until
from tests.harness.router_daemon import Daemon, daemon, is_running

pytestmark = pytest.mark.faults

BODY = b"Subject: x\r\n\r\nhello\r\n"
A, B = b"<alice@example.org>", b"<bob@example.org>"
LONG_S = 40.0
"""Patience with whatever takes seconds when nobody else works."""


def free_port() -> int:
    with listening_socket() as sock:
        port: int = sock.getsockname()[1]
        return port


async def fetch(port: int, path: str = "/metrics") -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    text = (await asyncio.wait_for(reader.read(), 10)).decode()
    writer.close()
    return text


def value(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def metric_is(port: int, name: str, wanted: float) -> None:
    async def reached() -> None:
        while value(await fetch(port), name) != wanted:
            pass  # the question itself takes its time

    await asyncio.wait_for(reached(), LONG_S)


async def status_until(router: Daemon, **wanted: object) -> dict[str, object]:
    async def reached() -> dict[str, object]:
        while True:
            status = await router.status()
            if all(status.get(key) == claim for key, claim in wanted.items()):
                return status

    return await asyncio.wait_for(reached(), LONG_S)


def is_refused(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


class Load:
    """Clients that send one message after the other, on connections that they keep, until told to stop."""

    def __init__(self, router: Daemon, clients: int) -> None:
        self.router = router
        self.accepted = 0
        """Messages that were answered 250 for both recipients."""
        self.sent = 0
        self.faults: list[str] = []
        self.stopping = False
        self.patient = True
        """A lost connection is a fault; else the client comes again, as Postfix does."""
        self._tasks = [asyncio.create_task(self._send_on()) for _ in range(clients)]

    async def _send_on(self) -> None:
        client: LmtpClient | None = None
        while not self.stopping:
            try:
                client = client or await self.router.client()
                self.sent += 1
                replies = await client.message(BODY, A, B)
                if all(reply.startswith(b"250") for reply in replies):
                    self.accepted += 1
                elif self.patient:
                    self.faults.append(repr(replies))
            except (AssertionError, OSError, asyncio.IncompleteReadError) as error:
                if self.patient:
                    self.faults.append(repr(error))
                if client is not None:
                    client.close()
                client = None
                await asyncio.sleep(0.02)

    async def reach(self, messages: int) -> None:
        """Wait for so many messages more."""
        wanted = self.accepted + messages
        await wait_until(
            lambda: self.accepted >= wanted or bool(self.faults), f"{wanted} messages: {self.accepted}", LONG_S
        )

    async def stop(self) -> None:
        self.stopping = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), LONG_S)


def test_figures_are_of_all_workers_and_outlive_one(tmp_path: Path) -> None:
    port = free_port()

    async def test() -> None:
        async with daemon(tmp_path, f'[metrics]\nrouter_listen = "127.0.0.1:{port}"\n') as router:
            assert "ready" in await fetch(port, "/readyz")
            router.backends["b"].script = Script(final={B: b"452 4.2.2 over quota bob@example.org\r\n"})
            for _ in range(10):  # of two workers, both will have had some
                client = await router.client()
                await client.message(BODY, A, B)
                assert (await client.envelope(b"<nobody@example.org>"))[0].startswith(b"550")
                await client.ask(b"QUIT")
            await metric_is(port, "cyrusext_lmtp_transactions_total", 20)
            text = await fetch(port)
            assert value(text, 'cyrusext_lmtp_recipients_total{backend="a",verdict="delivered"}') == 10
            assert value(text, 'cyrusext_lmtp_recipients_total{backend="b",verdict="deferred"}') == 10
            assert value(text, 'cyrusext_lmtp_recipients_total{backend="",verdict="rejected"}') == 10
            assert value(text, 'cyrusext_lmtp_rejects_total{reason="452 4.2.2"}') == 10
            assert value(text, 'cyrusext_lmtp_rejects_total{reason="550 5.1.1"}') == 10
            assert value(text, "cyrusext_lmtp_received_bytes_total") == 10 * len(BODY)
            assert value(text, 'cyrusext_lmtp_delivered_bytes_total{backend="a"}') == 10 * len(BODY)
            assert value(text, 'cyrusext_lmtp_phase_seconds_count{phase="final"}') == 20
            assert value(text, "cyrusext_lmtp_workers") == 2
            assert "example.org" not in text
            first, _ = router.workers()
            os.kill(first, signal.SIGKILL)
            await metric_is(port, "cyrusext_lmtp_worker_restarts_total", 1)
            await metric_is(port, "cyrusext_lmtp_workers_silent", 0)
            text = await fetch(port)
            assert value(text, "cyrusext_lmtp_transactions_total") == 20
            assert value(text, "cyrusext_lmtp_sessions_total") == 10

    play(test)


def test_status_shows_sessions_backends_and_durations(tmp_path: Path) -> None:
    async def test() -> None:
        async with daemon(tmp_path) as router:
            client = await router.client()
            await client.message(BODY, A, B)
            await router.backends["b"].stop()
            assert (await client.envelope(B))[0].startswith(b"451")
            await client.ask(b"RSET")
            status = await status_until(router, sessions=1, transactions=2)
            assert status["recipients"] == {"delivered": 2, "deferred": 1}
            backends = status["backends"]
            assert isinstance(backends, dict)
            one = backends[f"127.0.0.1:{router.backends['a'].port}"]
            assert (one["connections"], one["idle"], one["breaker"], one["connects"]) == (1, 1, "closed", 1)
            other = backends[f"127.0.0.1:{router.backends['b'].port}"]
            assert (other["connections"], other["failures"]) == (0, 1)
            phases = status["phases"]
            assert isinstance(phases, dict)
            assert all(0 < phase["p50_ms"] <= phase["p99_ms"] for phase in phases.values())
            for _ in range(2):
                await client.envelope(B)
                await client.ask(b"RSET")
            while backends[f"127.0.0.1:{router.backends['b'].port}"]["breaker"] != "open":
                status = await router.status()
                backends = status["backends"]
                assert isinstance(backends, dict)

    play(test)


def test_a_new_configuration_drops_no_session(tmp_path: Path) -> None:
    async def test() -> None:
        async with daemon(tmp_path) as router:
            idle, busy = await router.client(), await router.client()
            await busy.envelope(A, B)
            assert (await busy.ask(b"DATA")).startswith(b"354")
            busy.send(BODY)
            before = router.workers()
            router.configure('max_size = "7MiB"\n', workers=3)
            router.reload()
            await wait_until(lambda: router.events("lmtp.reloaded") == 1, "the new configuration is taken", LONG_S)
            assert b"SIZE 7340032" in await (await router.client()).ask(b"LHLO again")
            # Who was there goes on, in the middle of a message, and afterwards too.
            busy.send(b".\r\n")
            assert await busy.codes(2) == [b"250", b"250"]
            for client in (idle, busy):
                assert all(reply.startswith(b"250") for reply in await client.message(BODY, A, B))
                assert (await client.ask(b"QUIT")).startswith(b"221")
                client.close()
            await wait_until(lambda: not any(map(is_running, before)), "the workers of before end", LONG_S)
            await wait_until(lambda: len(router.workers()) == 3, "three workers serve", LONG_S)
            assert router.events("lmtp.worker_died") == 0
            assert (await status_until(router, reloads=1))["reload_error"] == ""
            unix = LmtpClient(*await asyncio.open_unix_connection(f"{tmp_path}/run/lmtp"))
            router.clients.append(unix)
            assert (await unix.reply()).startswith(b"220")

    play(test)


def test_a_wrong_configuration_changes_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with daemon(tmp_path) as router:
            workers = router.workers()
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                router.more = [f"127.0.0.1:{taken.getsockname()[1]}"]
                for count, extra in enumerate(("max_sise = 3\n", 'backend_user = "u"\n', ""), 1):
                    router.configure(extra)
                    router.reload()
                    await wait_until(
                        lambda count=count: router.events("lmtp.reload_failed") == count,  # type: ignore[misc]
                        "it is refused",
                        LONG_S,
                    )
            text = router.log.read_text()
            assert "max_sise" in text and "backend_password_file" in text and "can not listen on" in text
            status = await router.status()
            assert "can not listen on" in str(status["reload_error"])
            assert router.workers() == workers
            client = await router.client()
            assert (await client.message(BODY, A))[0].startswith(b"250")

    play(test)


def test_addresses_come_and_go(tmp_path: Path) -> None:
    async def test() -> None:
        async with daemon(tmp_path) as router:
            first, second = router.port, free_port()
            client = await router.client()
            router.more = [f"127.0.0.1:{second}"]
            for count, port in enumerate((first, second), 1):
                router.configure("")
                router.reload()
                await wait_until(lambda count=count: router.events("lmtp.reloaded") == count, "taken", LONG_S)  # type: ignore[misc]
                router.port = port
                assert (await (await router.client()).message(BODY, A))[0].startswith(b"250")
                router.port, router.more = second, []
            await wait_until(lambda: is_refused(first), "nobody listens there any more", LONG_S)
            assert (await client.message(BODY, A))[0].startswith(b"250"), "who came by the old address stays"

    play(test)


def test_smtp_comes_and_goes_by_reload(tmp_path: Path) -> None:
    async def test() -> None:
        async with daemon(tmp_path) as router:
            port = free_port()
            router.configure(f'smtp_listen = ["127.0.0.1:{port}"]\n')
            router.reload()
            await wait_until(lambda: router.events("lmtp.reloaded") == 1, "taken", LONG_S)
            client = LmtpClient(*await asyncio.open_connection("127.0.0.1", port))
            router.clients.append(client)
            assert b" ESMTP " in await client.reply()
            assert (await client.ask(b"LHLO c")).startswith(b"500")
            assert (await client.ask(b"EHLO c")).startswith(b"250-")
            assert (await client.envelope(A, B))[1].startswith(b"452 4.5.3")
            await client.ask(b"RSET")
            assert (await client.message(BODY, A))[0].startswith(b"250")
            assert (await (await router.client()).message(BODY, A, B))[1].startswith(b"250")
            answers = (await router.status())["answers"]
            assert answers[f"127.0.0.1:{port}"]["state"] == "up"
            assert {answer["state"] for answer in answers.values()} == {"up"}
            router.configure("")
            router.reload()
            await wait_until(lambda: is_refused(port), "nobody listens there any more", LONG_S)

    play(test)


def test_reloads_under_load_lose_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with daemon(tmp_path) as router:
            load = Load(router, 8)
            for count in range(1, 4):
                await load.reach(30)
                router.configure(f'max_size = "{count}MiB"\n', workers=1 + count)
                router.reload()
                await wait_until(lambda count=count: router.events("lmtp.reloaded") == count, "taken", LONG_S)  # type: ignore[misc]
            await load.reach(30)
            await load.stop()
            assert load.faults == []
            assert load.accepted == load.sent
            for backend in router.backends.values():
                assert len(backend.messages) == load.accepted
            await status_until(router, transactions=load.accepted)

    play(test)


def test_a_worker_that_dies_under_load_loses_no_message(tmp_path: Path) -> None:
    async def test() -> None:
        async with daemon(tmp_path) as router:
            load = Load(router, 8)
            load.patient = False
            for count in range(1, 4):
                await load.reach(30)
                os.kill(router.workers()[0], signal.SIGKILL)
                await wait_until(lambda count=count: router.events("lmtp.worker_died") == count, "it is seen", LONG_S)  # type: ignore[misc]
            await load.reach(30)
            load.stopping = True
            await load.stop()
            for backend in router.backends.values():
                assert len(backend.messages) >= load.accepted, "a 250 for a message that no backend has"
                assert len(backend.messages) <= load.sent

    play(test)


def test_a_hung_worker_silences_the_watchdog_and_is_replaced(tmp_path: Path) -> None:
    heard: list[float] = []

    async def test() -> None:
        path = tmp_path / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.bind(str(path))
            loop = asyncio.get_running_loop()

            def hear() -> None:
                if b"WATCHDOG=1" in sock.recv(4096):
                    heard.append(loop.time())

            loop.add_reader(sock, hear)
            environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "9000000"}
            async with daemon(tmp_path, environment=environment) as router:
                await wait_until(lambda: bool(heard), "systemd hears that all is well", LONG_S)
                hung, well = router.workers()
                os.kill(hung, signal.SIGSTOP)
                await wait_until(lambda: router.events("lmtp.worker_hung") == 1, "it is found out", LONG_S)
                # 6 s of silence make it hung, and after 3 s of it nothing more was said to systemd.
                assert loop.time() - heard[-1] >= 2.0
                await wait_until(lambda: hung not in router.workers(), "it is ended", LONG_S)
                await wait_until(lambda: len(router.workers()) == 2, "it is replaced", LONG_S)
                assert well in router.workers()
                told = len(heard)
                await wait_until(lambda: len(heard) > told, "all is well again", LONG_S)
                status = await status_until(router, workers_silent=0)
                assert (status["worker_hung"], status["worker_restarts"]) == (1, 1)

    play(test)
