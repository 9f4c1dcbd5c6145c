"""A backend that withholds just one reply: the deadline of that reply is the one that counts, and each can be set."""

from __future__ import annotations

import asyncio

import pytest

from cyrusext.runtime.config_schema import Timeouts
from tests.harness.lmtp_peer import RouterUnderTest, Script, ScriptedBackend, play

pytestmark = pytest.mark.faults

A, B = b"<u0@example.org>", b"<u1@example.org>"
BODY = b"Subject: x\r\n\r\nhello\r\n"
SHORT_S = 0.3
STEPS = ("greeting", "mail", "rcpt", "go_ahead", "final")
LONG = dict.fromkeys(("connect", "envelope", "data", "idle", *STEPS), 60.0)


@pytest.mark.parametrize(
    ("place", "step"),
    [("greeting", "greeting"), ("mail", "mail"), ("rcpt", "rcpt"), ("data", "go_ahead"), ("dot", "final")],
)
def test_the_deadline_of_each_reply(place: str, step: str) -> None:
    """All others are long, so an answer in time is this one's; the other backend is not delayed longer than by it."""

    async def test() -> None:
        backends = {"a": ScriptedBackend(Script(hang_at=place)), "b": ScriptedBackend()}
        timeouts = Timeouts(**{**LONG, step: SHORT_S})
        async with RouterUnderTest(backends, timeouts=timeouts) as router:
            client = await router.client()
            loop = asyncio.get_running_loop()
            began = loop.time()
            a, b = await client.envelope(A, B)
            assert b.startswith(b"250")
            if place in ("data", "dot"):
                assert a.startswith(b"250")
            else:
                assert a.startswith(b"451 4.4.")
            assert (await client.ask(b"DATA")).startswith(b"354")
            client.send(BODY + b".\r\n")
            finals = await client.replies(2 if a.startswith(b"250") else 1)
            assert [final[:9] for final in finals[:-1]] in ([], [b"451 4.4.2"])
            assert finals[-1] == b"250 2.1.5 %b delivered\r\n" % B
            assert SHORT_S - 0.05 <= loop.time() - began < 20

    play(test)
