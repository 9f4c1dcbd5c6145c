"""The router as a daemon: workers that die, drains, memory that stays bounded; with the real store and lookup."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.lmtp_peer import LmtpClient, Script, play, wait_until
from tests.harness.router_daemon import CHECKOUT, daemon, is_running

pytestmark = pytest.mark.faults

BODY = b"Subject: x\r\n\r\nhello\r\n"
A, B = b"<alice@example.org>", b"<bob@example.org>"


def test_verdicts_of_the_real_lookup(tmp_path: Path) -> None:
    async def test() -> None:
        async with daemon(tmp_path) as router:
            client = await router.client()
            users = (b"alice", b"alice+detail", b"nobody", b"new", b"held", b"odd", b"bob")
            replies = await client.envelope(*(b"<%b@example.org>" % user for user in users))
            assert [reply[:9] for reply in replies] == [
                b"250 2.1.5", b"250 2.1.5", b"550 5.1.1", b"451 4.2.1", b"451 4.2.1", b"451 4.2.1", b"250 2.1.5",
            ]  # fmt: skip
            router.beating = False
            await client.ask(b"RSET")

            async def unsure() -> bytes:
                reply = (await client.envelope(b"<nobody@example.org>"))[0]
                await client.ask(b"RSET")
                return reply[:9]

            until = asyncio.get_running_loop().time() + 10
            while await unsure() != b"451 4.4.3":
                assert asyncio.get_running_loop().time() < until, "a node that is silent still proves a no"
                await asyncio.sleep(0.1)
            assert (await client.message(BODY, A))[0].startswith(b"250")

    play(test)


def test_check_and_status(tmp_path: Path) -> None:
    async def test() -> None:
        async with daemon(tmp_path) as router:
            code, out = await router.command("check", "alice+x@example.org", "--format", "json")
            row = json.loads(out)[0]
            assert (code, row["verdict"], row["server"]) == (0, "found", "a")
            assert row["endpoint"] == f"127.0.0.1:{router.backends['a'].port}"
            assert (row["accepts"], row["says"]) == ("yes", "250 2.1.5 ok")
            assert (await router.command("check", "nobody@example.org"))[0] == 1
            assert (await router.command("check", "held@example.org"))[0] == 75
            assert (await router.command("check", "no address"))[0] == 2
            code, out = await router.command("status", "--format", "tsv")
            assert (code, out.count("\tstate up, ")) == (0, 2)
            await router.stop()
            code, out = await router.command("status", "--format", "tsv")
            assert (code, out.count("\tstate down, ")) == (69, 2)

    play(test)


def test_a_dead_worker_is_replaced_and_costs_only_its_sessions(tmp_path: Path) -> None:
    async def test() -> None:
        async with daemon(tmp_path) as router:
            first, second = router.workers()
            os.kill(first, signal.SIGKILL)
            await wait_until(lambda: len(router.workers()) == 2 and first not in router.workers(), "a new worker")
            assert second in router.workers()
            for _ in range(10):
                client = await router.client()
                assert (await client.message(BODY, A, B))[1].startswith(b"250")
                client.close()

    play(test)


def test_no_worker_outlives_the_parent(tmp_path: Path) -> None:
    async def test() -> None:
        async with daemon(tmp_path) as router:
            workers = router.workers()
            assert router.process is not None
            router.process.kill()
            await router.ended()
            await wait_until(
                lambda: not any(is_running(worker) for worker in workers), "the workers end with their parent"
            )

    play(test)


def test_sigterm_lets_the_message_end(tmp_path: Path) -> None:
    async def test() -> None:
        async with daemon(tmp_path) as router:
            idle = await router.client()
            client = await router.client()
            await client.envelope(A, B)
            assert (await client.ask(b"DATA")).startswith(b"354")
            client.send(BODY)
            assert router.process is not None
            router.process.send_signal(signal.SIGTERM)
            assert (await idle.reply()).startswith(b"421 4.3.2")
            assert await idle.at_end() == b""
            idle.close()
            client.send(b".\r\n")
            assert await client.codes(3) == [b"250", b"250", b"421"]
            client.close()
            assert await router.ended() == 0
            assert len(router.backends["a"].messages) == 1
            assert not (tmp_path / "run/lmtp").exists()

    play(test)


def test_a_unix_socket_is_served(tmp_path: Path) -> None:
    async def test() -> None:
        async with daemon(tmp_path) as router:
            client = LmtpClient(*await asyncio.open_unix_connection(f"{tmp_path}/run/lmtp"))
            router.clients.append(client)
            await client.reply()
            await client.ask(b"LHLO c")
            assert (await client.message(BODY, A))[0].startswith(b"250")
            await wait_until(lambda: "event=lmtp.recipient" in router.log.read_text(), "it is in the log")

    play(test)


def test_a_second_router_does_not_share_the_port(tmp_path: Path) -> None:
    async def test() -> None:
        async with daemon(tmp_path) as router:
            code, _ = await router.command()
            assert code == 78

    play(test)


def test_memory_is_bounded_however_long_the_message_and_however_slow_a_backend(tmp_path: Path) -> None:
    line = b"x" * 998 + b"\r\n"
    block = line * 256

    async def test() -> None:
        async with daemon(tmp_path, 'max_size = "100MiB"\nbody_buffer = "1MiB"\ntimeouts = { data = 2.0 }\n') as router:
            router.backends["b"].script = Script(hang_at="body")
            client = await router.client()
            before = max(peak_kib(pid) for pid in router.workers())
            await client.envelope(A, B)
            assert (await client.ask(b"DATA")).startswith(b"354")
            for _ in range(300):
                client.send(block)
                await client.writer.drain()
            client.send(b".\r\n")
            assert await client.codes(2) == [b"250", b"451"]
            assert len(router.backends["a"].messages[0].body) == 300 * len(block)
            grown = max(peak_kib(pid) for pid in router.workers()) - before
            assert grown < 12 * 1024, f"75 MiB made the worker grow by {grown} KiB"

    play(test)


def peak_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def test_an_address_in_use_is_a_configuration_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = tmp_path / "c.toml"
        config.write_text(f'[lmtp]\nlisten = ["127.0.0.1:{taken.getsockname()[1]}"]\n')
        done = subprocess.run(
            [sys.executable, "-m", "lmtp_router", "-c", config],
            cwd=CHECKOUT, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 78
        assert "can not listen on 127.0.0.1:" in done.stderr
        config.write_text('[lmtp]\nlisten = ["0.0.0.0:2024"]\n')
        done = subprocess.run(
            [sys.executable, "-m", "lmtp_router", "-c", config],
            cwd=CHECKOUT, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 78
        assert "beyond loopback" in done.stderr
