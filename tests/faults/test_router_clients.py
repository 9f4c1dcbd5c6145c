"""A client that goes, crawls or only sits there: nothing half is delivered, and nobody else pays for it."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import socket
import struct
from pathlib import Path

import pytest

from cyrusext.runtime.config_schema import Timeouts
from tests.faults.soak import rss_kib
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
ASKED = DIALOGUE.index(BODY)
"""So many octets of the dialogue are to be answered with 354."""
WHOLE = ASKED + len(BODY) + len(b".\r\n")
"""So many are a message."""
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
                had, received = len(a.messages), a.received
                reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
                writer.write(DIALOGUE[: min(length, ASKED)])
                if length > ASKED:
                    # The cut falls into the body only if what was sent of it is at the backend.
                    while not (await asyncio.wait_for(reader.readline(), 10)).startswith(b"354 "):
                        pass
                    writer.write(DIALOGUE[ASKED:length])
                    sure = re.sub(rb"(\A|\r\n)\.\r?\Z", rb"\1", DIALOGUE[ASKED : min(length, WHOLE)])
                    wanted = received + len(sure)
                    await wait_until(lambda wanted=wanted: a.received >= wanted, f"{len(sure)} octets are there")  # type: ignore[misc]
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
        # The limit with which a shell or systemd starts it is not the one that it serves with.
        async with daemon(tmp_path, before=("prlimit", f"--nofile=1024:{hard}")) as router:
            before = {pid: rss_kib(pid) for pid in router.workers()}
            opened = []
            for _ in range(IDLE):
                reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
                opened.append(writer)
                assert (await asyncio.wait_for(reader.readline(), 30)).startswith(b"220 ")
            grown = sum(rss_kib(pid) - kib for pid, kib in before.items())
            print(f"{IDLE} idle connections: {grown / IDLE:.1f} KiB each")
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


def test_more_clients_than_descriptors_are_told_so_and_the_others_are_served(tmp_path: Path) -> None:
    """Half of what the limit leaves is for backends: who is taken is served."""

    async def test() -> None:
        async with daemon(tmp_path, before=("prlimit", "--nofile=300:300")) as router:
            assert router.events("lmtp.few_descriptors") == 2
            served, opened = [await router.client() for _ in range(4)], []
            greetings = []
            for _ in range(100):
                reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
                opened.append(writer)
                greetings.append((await asyncio.wait_for(reader.readline(), 10))[:9])
            assert set(greetings) == {greetings[0], b"421 4.3.2"}
            assert greetings[0].startswith(b"220 ")
            for client in served:
                replies = await client.message(BODY, b"<alice@example.org>", b"<bob@example.org>")
                assert [reply[:3] for reply in replies] == [b"250", b"250"]
            for writer in opened:
                writer.close()

    play(test)
