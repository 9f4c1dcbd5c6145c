"""Every reply of a backend, with everything that can be wrong with it: nobody else notices, and nobody is told a lie.

Rule: whatever one backend does, the other's recipient is delivered once and told so; the client gets one reply for each
command and none more; a 250 stands for a message that this backend has; and a backend's own 5xx goes to the recipients
that it was said to, and to nobody else.
"""

from __future__ import annotations

import math

import pytest

from cyrusext.runtime.config_schema import Timeouts
from lmtp_router.backends import BackendPools
from tests.harness.lmtp_peer import LmtpClient, RouterUnderTest, Script, ScriptedBackend, play

pytestmark = pytest.mark.faults

A, B, A2 = b"<u0@example.org>", b"<u1@example.org>", b"<u2@example.org>"
BODY = b"Subject: x\r\n\r\nhello\r\n"
QUICK = Timeouts(connect=0.3, greeting=0.3, envelope=0.3, data=0.3, final=0.3, idle=30.0)
PLACES = ("greeting", "lhlo", "mail", "rcpt", "data", "final")
FLAWS = ("gone", "silent", "half gone", "half silent", "twice", "twice gone", "slow")
NO_LINK, LOST = b"451 4.4.1", b"451 4.4.2"


def router(a: Script) -> RouterUnderTest:
    return RouterUnderTest({"a": ScriptedBackend(a), "b": ScriptedBackend()}, timeouts=QUICK)


async def transaction(client: LmtpClient, *rcpts: bytes) -> list[list[bytes]]:
    """One message; the replies to each recipient: of RCPT, and where that was good, after the message."""
    told = [[reply] for reply in await client.envelope(*rcpts)]
    assert (await client.ask(b"DATA")).startswith(b"354")
    client.send(BODY + b".\r\n")
    for replies in told:
        if replies[0].startswith(b"250"):
            replies.append(await client.reply())
    # Nothing more was said: the next reply is that of the next command.
    assert await client.ask(b"VRFY x") == b"252 2.5.2 Cannot VRFY, try RCPT\r\n"
    return told


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "kept"])
@pytest.mark.parametrize("flaw", FLAWS)
@pytest.mark.parametrize("place", PLACES)
def test_whatever_is_wrong_with_a_reply(place: str, flaw: str, fresh: bool) -> None:
    """On a new connection and on one that was kept, where the flaw may fall into the envelope that is said again."""

    async def test() -> None:
        async with router(Script()) as under_test:
            a, b = under_test.backends["a"], under_test.backends["b"]
            client = await under_test.client()
            if not fresh:
                assert [told[-1][:3] for told in await transaction(client, A, B)] == [b"250", b"250"]
            a.script = Script(flaw=flaw, flaw_at=place)
            had, had_b = len(a.messages), len(b.messages)
            first, other, second = await transaction(client, A, B, A2)
            assert [reply[:3] for reply in other] == [b"250", b"250"]
            assert [message.body for message in b.messages[had_b:]] == [BODY]
            for told in (first, second):
                assert all(reply.startswith((b"250 ", b"451 ")) for reply in told), told
                if told[-1].startswith(b"250"):
                    assert [message.body for message in a.messages[had:]] == [BODY], "250 for a message it has not"
            if flaw == "slow":
                assert first[-1].startswith(b"250") and second[-1].startswith(b"250")
            a.script = Script()
            a.released.set()
            healed = await transaction(client, A, B)
            assert [told[-1][:3] for told in healed] == [b"250", b"250"], healed
            assert len(a.messages) <= had + 2

    play(test)


@pytest.mark.parametrize("code", [b"450", b"550"])
@pytest.mark.parametrize("place", PLACES)
def test_refusals_at_each_phase(place: str, code: bytes) -> None:
    """What a backend says before there is a transaction is of the connection: it bounces nothing."""
    words = code + b"-" + code[:1] + b".7.9 for a reason\r\n" + code + b" " + code[:1] + b".7.9 of its own\r\n"
    scripts = {
        "greeting": Script(greeting=words),
        "lhlo": Script(lhlo=words),
        "mail": Script(mail=words),
        "rcpt": Script(rcpt={A: words}),
        "data": Script(data=words),
        "final": Script(final={A: words}),
    }

    async def test() -> None:
        async with router(scripts[place]) as under_test:
            client = await under_test.client()
            first, other, second = await transaction(client, A, B, A2)
            assert [reply[:3] for reply in other] == [b"250", b"250"]
            if place in ("greeting", "lhlo"):
                assert [told[0][:9] for told in (first, second)] == [NO_LINK, NO_LINK]
            elif place in ("mail", "data"):
                assert first[-1] == second[-1] == words
            else:
                assert first[-1] == words
                assert second[-1].startswith(b"250 ")
            delivered = [message.rcpts for message in under_test.backends["a"].messages]
            assert delivered == {"rcpt": [[A2]], "final": [[A, A2]]}.get(place, [])

    play(test)


@pytest.mark.parametrize("extra", [b"250 2.0.0 OK\r\n", b"354 go\r\n", b"550 5.7.1 no\r\n"])
@pytest.mark.parametrize("place", ["greeting", "lhlo", "final"])
def test_a_reply_too_many_is_never_the_answer_to_what_was_not_yet_asked(place: str, extra: bytes) -> None:
    """It comes with the reply before it, so before the next command was written: it can not be an answer to that."""

    async def test() -> None:
        refused = b"452 4.2.2 this one only\r\n"
        script = Script(rcpt={A2: refused})
        match place:
            case "greeting":
                script.greeting += extra
            case "lhlo":
                script.lhlo += extra
            case "final":
                script.final[A] = b"250 2.1.5 done\r\n" + extra
        async with router(script) as under_test:
            client, later = await under_test.client(), await under_test.client()
            if place == "final":
                assert (await transaction(client, A))[0][1] == b"250 2.1.5 done\r\n"
                client = later
            first, second = await transaction_of(client, A, A2)
            assert first[0][:3] in (b"250", b"451")
            assert second[0] == refused or second[0].startswith(b"451")
            assert not first[-1].startswith(b"5")

    play(test)


async def transaction_of(client: LmtpClient, *rcpts: bytes) -> list[list[bytes]]:
    """As `transaction`, and the client goes on when nobody takes the message."""
    told = [[reply] for reply in await client.envelope(*rcpts)]
    good = [replies for replies in told if replies[0].startswith(b"250")]
    if good:
        assert (await client.ask(b"DATA")).startswith(b"354")
        client.send(BODY + b".\r\n")
        for replies in good:
            replies.append(await client.reply())
    assert await client.ask(b"RSET") == b"250 2.0.0 OK\r\n"
    return told


@pytest.mark.parametrize("place", ["data", "body", "dot"])
def test_a_slow_backend_costs_the_others_its_deadline_and_no_more(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in sweeps, which is how the router itself measures time: a loaded machine changes nothing."""
    deadline_s = 0.8
    period_s = deadline_s / 4
    body = (b"x" * 98 + b"\r\n") * 100_000
    sweeps = {"all": 0, "since": 0}

    script = Script(hang_at=place)
    backends = {"a": ScriptedBackend(script, receive_buffer=1 << 12), "b": ScriptedBackend()}

    async def at(where: str) -> None:
        if where == "dot" == place:
            sweeps["since"] = sweeps["all"]

    class Counting(BackendPools):
        """The pools, whose `expire` every sweep calls."""

        def expire(self, now: float) -> None:
            slow = [pool for pool in self if pool.name.endswith(f":{backends['a'].port}")]
            if place == "body" and not sweeps["since"] and any(link.paused for pool in slow for link in pool.links):
                sweeps["since"] = sweeps["all"]  # since after the last one
            sweeps["all"] += 1
            super().expire(now)

    async def test() -> None:
        timeouts = Timeouts(connect=30, greeting=30, envelope=deadline_s, data=deadline_s, final=deadline_s, idle=30)
        script.step = at
        async with RouterUnderTest(backends, timeouts=timeouts, body_buffer=1 << 18) as under_test:
            assert under_test.frontend is not None
            empty = under_test.frontend.pools
            monkeypatch.setattr(under_test.frontend, "pools", Counting(empty._settings, empty._loop, empty._turn))
            client = await under_test.client()
            replies = await client.message(body, A, B)
            assert [reply[:9] for reply in replies] == [LOST, b"250 2.1.5"]
            assert backends["b"].messages[0].body == body
            waited = sweeps["all"] - sweeps["since"]
            # One for the part of a period before the first, one for the deadline that falls between two.
            assert waited <= math.ceil(deadline_s / period_s) + 2, f"the others waited for {waited} sweeps"

    play(test)
