"""What the router's log tells, and what it must not."""

from __future__ import annotations

import io

import pytest

from cyrusext.runtime import logging
from lmtp_router.privacy import Disclosure
from tests.harness.lmtp_peer import RouterUnderTest, Script, ScriptedBackend, play

pytestmark = pytest.mark.faults

A, B = b"<u0@example.org>", b"<u1@example.org>"


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def talk(router_log: io.StringIO, disclosure: Disclosure) -> list[str]:
    """One message to two recipients and one to nobody known, one backend losing the connection; the log's lines."""

    async def test() -> None:
        backends = {"a": ScriptedBackend(), "b": ScriptedBackend(Script(final={B: b"no reply for u1@example.org\r\n"}))}
        router = RouterUnderTest(backends)
        router.settings = router.settings._replace(disclosure=disclosure)
        async with router:
            client = await router.client()
            replies = await client.envelope(A, b"<nobody@example.org>", B)
            assert [reply[:3] for reply in replies] == [b"250", b"550", b"250"]
            await client.ask(b"DATA")
            client.send(b"x\r\n.\r\n")
            assert await client.codes(2) == [b"250", b"451"]

    logging.setup("info", router_log)
    try:
        play(test)
    finally:
        logging.setup()
    return router_log.getvalue().splitlines()


def test_one_line_for_each_recipient(stream: io.StringIO) -> None:
    lines = [line for line in talk(stream, Disclosure.FULL) if "event=lmtp.recipient " in line]
    assert len(lines) == 3
    for line in lines:
        assert "from=<from@example.org>" in line
        assert all(f" {field}=" in line for field in ("session", "size", "reply", "took_ms"))
    good = next(line for line in lines if "to=<u0@example.org>" in line)
    assert "backend=a" in good
    assert "size=3 " in good
    assert 'reply="250 2.1.5' in good


@pytest.mark.parametrize("disclosure", [Disclosure.HASHED, Disclosure.OFF])
def test_no_line_has_an_address(stream: io.StringIO, disclosure: Disclosure) -> None:
    lines = talk(stream, disclosure)
    assert len([line for line in lines if "event=lmtp.recipient " in line]) == 3
    assert [line for line in lines if "event=lmtp.backend_lost " in line]
    assert "example.org" not in "\n".join(lines)
    assert "to=" in "\n".join(lines) or disclosure is Disclosure.OFF
