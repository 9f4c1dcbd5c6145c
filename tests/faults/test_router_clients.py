"""A client that goes, crawls or only sits there: nothing half is delivered, and nobody else pays for it."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
from pathlib import Path

import pytest

from cyrusext.runtime.config_schema import Timeouts
from tests.harness.lmtp_peer import RouterUnderTest, ScriptedBackend, play, wait_until
from tests.harness.router_daemon import daemon

pytestmark = pytest.mark.faults

A, B = b"<u0@example.org>", b"<u1@example.org>"
BODY = b"Subject: x\r\n\r\n..dot\r\n"
DIALOGUE = (
    b"LHLO c\r\nMAIL FROM:<f@example.org> SIZE=20\r\nRCPT TO:<u0@example.org>\r\nRCPT TO:<nobody@example.org>\r\n"
    b"RCPT TO:<u1@example.org>\r\nDATA\r\n"
    + BODY
    + b".\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<u0@example.org>\r\nQUIT\r\n"
)
WHOLE = DIALOGUE.index(BODY) + len(BODY) + len(b".\r\n")
"""So many octets of the dialogue are a message."""
LONG = bool(os.environ.get("CYREXT_LONG"))
IDLE = 10_000 if LONG else 2000
IDLE_KIB = 12.0
"""What an idle connection may cost a worker (measured: 5 KiB)."""


@pytest.mark.parametrize("how", ["closed", "reset", "half closed"])
def test_cut_at_each_octet_of_a_dialogue(how: str) -> None:
    """Every prefix of a session, then the end of it: a message only where its last dot was sent, and then whole."""

    async def test() -> None:
        async with RouterUnderTest({"a": ScriptedBackend(), "b": ScriptedBackend()}) as router:
            assert router.frontend is not None
            frontend = router.frontend
            a, b = router.backends["a"], router.backends["b"]
            for length in range(len(DIALOGUE) + 1):
                had = len(a.messages)
                reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
                writer.write(DIALOGUE[:length])
                await writer.drain()
                if how == "reset":
                    sock: socket.socket = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                elif how == "half closed":
                    writer.write_eof()
                    await asyncio.wait_for(reader.read(), 10)
                    writer.close()
                else:
                    writer.close()
                await wait_until(
                    lambda: not frontend.sessions and not frontend.orphans, f"the session cut at {length} is over"
                )
                if length < WHOLE:
                    assert len(a.messages) == had, f"cut at {length}, before the dot, and delivered"
            for backend in (a, b):
                assert all(message.body == BODY for message in backend.messages)
                assert all(b"\r\n.\r\n" not in b"\r\n" + part for part in backend.partial)
                assert len(backend.messages) <= len(DIALOGUE) + 1 - WHOLE
            client = await router.client()
            assert [reply[:3] for reply in await client.message(BODY, A, B)] == [b"250", b"250"]

    play(test)


def test_a_client_that_sends_octet_by_octet_is_served_and_disturbs_nobody() -> None:
    """Its message takes many times as long as any deadline; each octet is progress, as RFC 5321 4.5.3.2 counts it."""
    step_s, deadline_s = (1.0, 4.0) if LONG else (0.05, 0.4)

    async def test() -> None:
        timeouts = Timeouts(connect=5, greeting=5, envelope=5, data=deadline_s, final=5, idle=deadline_s)
        async with RouterUnderTest({"a": ScriptedBackend(), "b": ScriptedBackend()}, timeouts=timeouts) as router:
            slow = await router.client(lhlo=False)
            begun = asyncio.get_running_loop().time()
            text = b"LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:" + A + b"\r\nDATA\r\nx: y\r\n\r\nz\r\n.\r\n"
            for at in range(len(text)):
                slow.send(text[at : at + 1])
                await asyncio.sleep(step_s)  # the pace is what is tested
                if at % 16 == 0:
                    quick = await router.client()
                    assert [reply[:3] for reply in await quick.message(BODY, A, B)] == [b"250", b"250"]
                    await quick.ask(b"QUIT")
            assert asyncio.get_running_loop().time() - begun > 5 * deadline_s
            assert await slow.codes(5) == [b"250", b"250", b"250", b"354", b"250"]
            assert [m.body for m in router.backends["a"].messages if m.body != BODY] == [b"x: y\r\n\r\nz\r\n"]

    with asyncio.Runner() as runner:  # without the bound of `play`: the long one takes minutes
        runner.run(test())


@pytest.mark.timeout(600)
def test_idle_connections_cost_little_and_hold_nobody_up(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def test() -> None:
        async with daemon(tmp_path) as router:
            before = {pid: rss_kib(pid) for pid in router.workers()}
            opened = []
            for _ in range(IDLE):
                reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
                opened.append(writer)
                assert (await asyncio.wait_for(reader.readline(), 30)).startswith(b"220 ")
            grown = sum(rss_kib(pid) - kib for pid, kib in before.items())
            assert grown / IDLE < IDLE_KIB, f"{IDLE} idle connections cost {grown} KiB"
            status = await router.status()
            assert status["sessions"] <= IDLE
            client = await router.client()
            assert (await client.message(BODY, b"<alice@example.org>"))[0].startswith(b"250")
            for writer in opened:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for writer in opened))

            async def gone() -> None:
                while (await router.status())["sessions"] > 1:
                    pass  # the question itself takes its time

            await asyncio.wait_for(gone(), 60)
            assert (await client.message(BODY, b"<bob@example.org>"))[0].startswith(b"250")

    try:
        play(test)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def rss_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
