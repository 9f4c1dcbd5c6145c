"""Parameters of SMTP extensions: offered when every backend has them, passed on whole, or refused; never dropped.

The backends are scripts, for no real LMTP server at hand offers DSN or SMTPUTF8; what real ones do without these is in
tests/integration.
"""

from __future__ import annotations

import pytest

from cyrusext.lookup import Answer, Verdict
from tests.harness.lmtp_peer import RouterUnderTest, Script, ScriptedBackend, play

A, B = b"<u0@example.org>", b"<u1@example.org>"
BODY = b"Subject: x\r\n\r\nhello\r\n"
PLAIN = Script().lhlo
FULL = b"250-backend\r\n250-8BITMIME\r\n250-PIPELINING\r\n250-SMTPUTF8\r\n250-DSN\r\n250 SIZE\r\n"
BARE = b"250-backend\r\n250 PIPELINING\r\n"


def pair(a: bytes, b: bytes) -> dict[str, ScriptedBackend]:
    return {"a": ScriptedBackend(Script(lhlo=a)), "b": ScriptedBackend(Script(lhlo=b))}


async def offers(router: RouterUnderTest) -> set[bytes]:
    client = await router.client(lhlo=False)
    words = (await client.ask(b"LHLO c")).split(b"\r\n")[1:-1]
    client.close()
    return {word[4:].split(b" ")[0] for word in words} & {b"8BITMIME", b"SMTPUTF8", b"DSN", b"BINARYMIME"}


async def meet(router: RouterUnderTest, *rcpts: bytes) -> None:
    """Have the router know the backends of `rcpts`."""
    client = await router.client()
    await client.envelope(*rcpts)
    await client.ask(b"RSET")


@pytest.mark.parametrize(
    ("a", "b", "offered"),
    [
        (FULL, FULL, {b"8BITMIME", b"SMTPUTF8", b"DSN"}),
        (FULL, PLAIN, {b"8BITMIME"}),
        (PLAIN, BARE, set()),
    ],
)
def test_clients_are_offered_what_the_backends_have(a: bytes, b: bytes, offered: set[bytes]) -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(a, b)) as router:
            assert await offers(router) == {b"8BITMIME"}, "what is true of a backend that is not known yet"
            await meet(router, A)
            await meet(router, B)
            assert await offers(router) == offered

    play(test)


def test_parameters_reach_the_backends_as_they_were_written() -> None:
    user = b"<\xc3\xbc@example.org>"
    table = {user[1:-1]: Answer(Verdict.FOUND, b"user.\xc3\xbc", "a", "default", "")}

    async def test() -> None:
        backends = pair(FULL, FULL)
        async with RouterUnderTest(backends, table) as router:
            await meet(router, A, B)
            client = await router.client()
            client.send(
                b"MAIL FROM:<\xc3\xa4@example.org> ENVID=id+2B1 RET=HDRS SMTPUTF8 SIZE=30 BODY=8BITMIME\r\n"
                b"RCPT TO:%b NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;U@x\r\n"
                % user
                + b"RCPT TO:%b ORCPT=utf-8;\xc3\xbc\r\nRCPT TO:%b\r\nDATA\r\n" % (A, B)
            )
            assert await client.codes(5) == [b"250", b"250", b"250", b"250", b"354"]
            client.send(BODY + b".\r\n")
            assert await client.codes(3) == [b"250"] * 3
            mail = b"MAIL FROM:<\xc3\xa4@example.org> SIZE=30 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=id+2B1\r\n"
            assert mail in backends["a"].commands
            assert mail in backends["b"].commands
            assert b"RCPT TO:%b NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;U@x\r\n" % user in backends["a"].commands
            assert b"RCPT TO:%b ORCPT=utf-8;\xc3\xbc\r\n" % A in backends["a"].commands
            assert b"RCPT TO:%b\r\n" % B in backends["b"].commands

    play(test)


@pytest.mark.parametrize("mail", [b"<f@example.org> SMTPUTF8", b"<f@example.org> RET=FULL"])
def test_a_backend_that_turns_out_to_lack_an_extension_defers_its_recipients_only(mail: bytes) -> None:
    """The client was offered it before that backend was known: next time it is not, and the client knows what to do."""

    async def test() -> None:
        backends = pair(FULL, PLAIN)
        async with RouterUnderTest(backends) as router:
            await meet(router, A)
            client = await router.client()
            replies = await client.envelope(A, B, mail=mail)
            assert [reply[:9] for reply in replies] == [b"250 2.1.5", b"451 4.3.3"]
            assert (await client.ask(b"DATA")).startswith(b"354")
            client.send(BODY + b".\r\n")
            assert (await client.reply()).startswith(b"250 2.1.5")
            assert not [line for line in backends["b"].commands if line.startswith(b"MAIL")]
            assert (await client.ask(b"LHLO again")).count(b"DSN") == 0
            assert (await client.ask(b"MAIL FROM:" + mail)).startswith(b"555 5.5.4")
            assert (await client.message(BODY, A, B))[1].startswith(b"250")

    play(test)


def test_notify_is_refused_for_the_recipients_of_a_backend_without_dsn() -> None:
    async def test() -> None:
        backends = pair(FULL, PLAIN)
        async with RouterUnderTest(backends) as router:
            await meet(router, A)
            client = await router.client()
            client.send(
                b"MAIL FROM:<f@example.org>\r\nRCPT TO:%b NOTIFY=NEVER\r\nRCPT TO:%b NOTIFY=NEVER\r\n" % (A, B)
                + b"RCPT TO:%b ORCPT=rfc822;u1@example.org\r\nDATA\r\n" % B
            )
            assert await client.codes(5) == [b"250", b"250", b"451", b"250", b"354"]
            client.send(BODY + b".\r\n")
            assert await client.codes(2) == [b"250", b"250"]
            assert [m.rcpts for m in backends["a"].messages] == [[A + b" NOTIFY=NEVER"]]
            assert [m.rcpts for m in backends["b"].messages] == [[B]], "ORCPT is of no use to it"

    play(test)


@pytest.mark.parametrize("early", [True, False])
def test_all_recipients_are_refused_without_asking_the_backend(early: bool) -> None:
    """The link is there before RCPT comes, or only after it; with DATA behind it or not."""

    async def test() -> None:
        backends = pair(FULL, PLAIN)
        async with RouterUnderTest(backends) as router:
            await meet(router, A)
            client = await router.client()
            if not early:
                other = await router.client()
                await other.envelope(B)
                await other.ask(b"RSET")
            client.send(b"MAIL FROM:<f@example.org>\r\nRCPT TO:%b NOTIFY=NEVER\r\nDATA\r\n" % B)
            assert await client.codes(3) == [b"250", b"451", b"554"]
            assert await client.ask(b"NOOP") == b"250 2.0.0 OK\r\n"
            assert (await client.message(BODY, A, B))[1].startswith(b"250")

    play(test)


def test_8bitmime_is_not_offered_twice_to_a_backend_without_it() -> None:
    async def test() -> None:
        async with RouterUnderTest(pair(BARE, BARE)) as router:
            client = await router.client()
            replies = await client.envelope(A, mail=b"<f@example.org> BODY=8BITMIME")
            assert replies[0].startswith(b"451 4.3.3")
            assert b"8BITMIME" not in await client.ask(b"LHLO c")
            assert (await client.ask(b"MAIL FROM:<> BODY=8BITMIME")).startswith(b"555 5.5.4")
            assert (await client.ask(b"MAIL FROM:<> BODY=7BIT")).startswith(b"250")

    play(test)
