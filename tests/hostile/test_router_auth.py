"""Logins of clients at the router: who may, what it lets them do, and what those get who can not.

Who comes from beyond this machine comes by a PROXY header: 127/8 has no address that is not its own.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import smtplib
import ssl
import threading
from collections.abc import AsyncIterator, Mapping
from email.parser import BytesHeaderParser
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

import lmtp_router.channel
import lmtp_router.frontend
import lmtp_router.logins
from cyrusext.net.sasl import LoginUnavailable, PasswordFile
from cyrusext.net.tls import ServerTls
from cyrusext.runtime.config_schema import LmtpSection
from lmtp_router.doors import OPEN, Door
from lmtp_router.logins import ClientLogins
from tests.harness.certificates import Authority
from tests.harness.lmtp_peer import LmtpClient, RouterUnderTest, Script, ScriptedBackend, play, wait_until

U = b"<u0@example.org>"
BODY = b"Subject: x\r\n\r\nhello\r\n"
NAME = "router.example.org"


def plain(user: str, password: str) -> bytes:
    return base64.b64encode(f"\0{user}\0{password}".encode())


GOOD, BAD = plain("mx", "secret"), plain("mx", "wrong")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmtp_router.logins, "FAILED_S", 0.05)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> ServerTls:
    made = authority.issue("router", f"/CN={NAME}", f"DNS:{NAME}")
    return ServerTls(str(made.cert), str(made.key))


@pytest.fixture
def logins(tmp_path: Path) -> ClientLogins:
    passwords = tmp_path / "passwords"
    passwords.write_text("mx:secret\nother:secret2\n")
    passwords.chmod(0o600)
    return ClientLogins(LmtpSection(pwcheck="file", password_file=str(passwords)), frozenset({"mx"}))


@contextlib.asynccontextmanager
async def router_of(
    logins: ClientLogins, backend: ScriptedBackend | None = None, door: Door = OPEN, **settings: Any
) -> AsyncIterator[RouterUnderTest]:
    backends = {"a": backend or ScriptedBackend()}
    async with RouterUnderTest(backends, settings={"logins": logins, **settings}, door=door) as router:
        yield router


def tally(router: RouterUnderTest) -> Mapping[str, int]:
    assert router.frontend is not None
    return router.frontend.journal.tally.logins


async def stranger(router: RouterUnderTest, authority: Authority, *, hello: bool = True) -> LmtpClient:
    """Come from 192.0.2.7, by a balancer, and begin TLS by STARTTLS."""
    context = ssl.create_default_context(cafile=str(authority.ca))
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    client = LmtpClient(reader, writer)
    router._clients.append(client)
    client.send(b"PROXY TCP4 192.0.2.7 127.0.0.1 4321 24\r\n")
    assert (await client.reply()).startswith(b"220")
    if hello:
        assert b"AUTH" not in await client.ask(b"LHLO c"), "in the clear, over a network"
        assert (await client.ask(b"AUTH PLAIN " + GOOD)).startswith(b"502")
        assert (await client.ask(b"STARTTLS")).startswith(b"220")
        await writer.start_tls(context, server_hostname=NAME)
        assert b"AUTH PLAIN\r\n" in await client.ask(b"LHLO c")
    return client


BEYOND: dict[str, Any] = {"door": Door(proxied=True), "trusted": (ip_network("127.0.0.1/32"),)}


def test_a_login_and_its_mail(logins: ClientLogins, capfd: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        async with router_of(logins, received=True) as router:
            for octets in (b"AUTH PLAIN " + GOOD + b"\r\n", b"AUTH PLAIN\r\n" + GOOD + b"\r\n"):
                client = await router.client(lhlo=False)
                assert b"AUTH PLAIN\r\n" in await client.ask(b"LHLO c")
                client.send(octets)
                if b"AUTH PLAIN\r\n" in octets:
                    assert await client.reply() == b"334 \r\n"
                assert (await client.reply()).startswith(b"235 2.7.0")
                assert (await client.ask(b"AUTH PLAIN " + GOOD)).startswith(b"503")
                client.send(b"MAIL FROM:<a@example.org> AUTH=<>\r\nRCPT TO:" + U + b"\r\nDATA\r\n")
                assert await client.codes(3) == [b"250", b"250", b"354"]
                client.send(BODY + b".\r\n")
                assert (await client.reply()).startswith(b"250")
            for message in router.backends["a"].messages:
                fields = BytesHeaderParser().parsebytes(message.body)
                assert " with LMTPA id " in str(fields["Received"]).replace("\n", "").replace("\t", " ")
                assert message.mail == b"<a@example.org>", "AUTH= is not passed on"
            assert tally(router) == {"good": 2}

    play(test)
    lines = [line for line in capfd.readouterr().err.splitlines() if "event=lmtp.login " in line]
    assert len(lines) == 2
    assert all(" user=mx mechanism=PLAIN tls=false" in line and " peer=127.0.0.1:" in line for line in lines)


def test_who_is_here_needs_none(logins: ClientLogins) -> None:
    async def test() -> None:
        async with router_of(logins) as router:
            client = await router.client()
            await client.message(BODY, U)
            assert (await client.ask(b"AUTH PLAIN " + BAD)).startswith(b"535 5.7.8")
            await client.message(BODY, U)
            assert (await client.ask(b"AUTH PLAIN")) == b"334 \r\n"
            assert (await client.ask(b"*")).startswith(b"501 5.7.0")
            await client.message(BODY, U)

    play(test)


@pytest.mark.parametrize(
    "response",
    [
        BAD,
        plain("nobody", "secret"),
        plain("other", "secret2"),  # not in auth_users
        plain("mx", ""),
        b"=",
        b"AA==",
        base64.b64encode(b"\0mx\0secret\0more"),
        base64.b64encode(b"other\0mx\0secret"),
        base64.b64encode(b"\0\xff\xfe\0secret"),
    ],
)
def test_failures_are_all_told_the_same(
    logins: ClientLogins, response: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    async def test() -> None:
        async with router_of(logins) as router:
            client = await router.client()
            loop = asyncio.get_running_loop()
            for _ in range(4):
                began = loop.time()
                answer = await client.ask(b"AUTH PLAIN " + response)
                assert loop.time() - began >= 0.04, "it is slowed"
                assert answer.startswith(b"535 5.7.8 Authentication credentials invalid [")
            client.send(b"AUTH PLAIN " + response + b"\r\nNOOP\r\n")
            assert (await client.reply()).startswith(b"421 4.7.0 Too many failed logins")
            assert await client.at_end() == b""
            assert tally(router) == {"refused": 5}

    play(test)
    log = capfd.readouterr().err
    assert log.count("event=lmtp.login_failed ") == 5
    assert "secret" not in log
    assert response.decode() not in log or response == b"="


def test_where_nobody_can_say(logins: ClientLogins, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> bool:
        raise LoginUnavailable("saslauthd is away")

    monkeypatch.setattr(PasswordFile, "verify", away)

    async def test() -> None:
        async with router_of(logins) as router:
            client = await router.client()
            assert (await client.ask(b"AUTH PLAIN " + GOOD)).startswith(b"454 4.7.0")
            assert tally(router) == {"unavailable": 1}

    play(test)


def test_others_are_served_while_a_password_is_looked_at(logins: ClientLogins, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, go_on = threading.Event(), threading.Event()
    verify = PasswordFile.verify

    def slow(passwords: PasswordFile, user: str, password: bytes) -> bool:
        looks.set()
        assert go_on.wait(30)
        return verify(passwords, user, password)

    monkeypatch.setattr(PasswordFile, "verify", slow)

    async def test() -> None:
        async with router_of(logins) as router:
            waiting, gone, other = [await router.client() for _ in range(3)]
            gone.send(b"AUTH PLAIN " + GOOD + b"\r\n")
            waiting.send(b"AUTH PLAIN " + GOOD + b"\r\nMAIL FROM:<>\r\nRCPT TO:" + U + b"\r\n")
            await wait_until(looks.is_set, "somebody asks")
            await other.message(BODY, U)
            gone.close()
            assert router.frontend is not None
            frontend = router.frontend
            await wait_until(lambda: len(frontend.sessions) == 2, "one has left")
            go_on.set()
            # What was pipelined behind AUTH was not touched before it was decided.
            assert await waiting.codes(3) == [b"235", b"250", b"250"]
            await wait_until(lambda: tally(router) == {"good": 2}, "both were looked at")

    play(test)


def test_a_stranger_has_to_log_in(logins: ClientLogins, authority: Authority, tls: ServerTls) -> None:
    async def test() -> None:
        hears = Script(lhlo=b"250-backend\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 XFORWARD NAME ADDR PROTO\r\n")
        backend = ScriptedBackend(hears)
        async with router_of(logins, backend, tls=tls, received=True, **BEYOND) as router:
            client = await stranger(router, authority)
            client.send(b"MAIL FROM:<>\r\nRCPT TO:" + U + b"\r\nDATA\r\n")
            assert await client.codes(3) == [b"530", b"503", b"503"]
            for command in (b"XCLIENT ADDR=127.0.0.1", b"XFORWARD ADDR=127.0.0.1"):
                assert (await client.ask(command)).startswith(b"550"), "a login makes nobody's word believed"
            assert (await client.ask(b"AUTH PLAIN " + BAD)).startswith(b"535")
            assert (await client.ask(b"MAIL FROM:<>")).startswith(b"530 5.7.0 Authentication required [")
            assert router.frontend is not None
            assert len(router.frontend.strangers) == 1
            assert (await client.ask(b"AUTH PLAIN " + GOOD)).startswith(b"235")
            assert not router.frontend.strangers
            await client.message(BODY, U)
            assert (await client.ask(b"XCLIENT ADDR=127.0.0.1")).startswith(b"550")
            assert b" with LMTPSA id " in b" ".join(backend.messages[0].body.split())
            assert any(b" ADDR=192.0.2.7 " in line for line in backend.commands)
            # With a connection to the backend at hand, too, which a whole envelope could take at once.
            asked = len(backend.commands)
            other = await stranger(router, authority)
            envelope = b"MAIL FROM:<>\r\nRCPT TO:" + U + b"\r\nDATA\r\n"
            other.send(envelope)
            assert await other.codes(3) == [b"530", b"503", b"503"]
            assert await other.ask(b"AUTH PLAIN") == b"334 \r\n"
            other.send(envelope)
            assert await other.codes(3) == [b"501", b"503", b"503"]
            assert len(backend.commands) == asked
            other.send(b"AUTH PLAIN " + GOOD + b"\r\n")
            assert await other.codes(1) == [b"235"]
            other.send(envelope)
            assert await other.codes(3) == [b"250", b"250", b"354"]

    play(test)


def test_tls_at_once_and_smtp(logins: ClientLogins, authority: Authority, tls: ServerTls) -> None:
    """As the standard library logs in, which is neither ours nor knows LMTP's AUTH."""
    context = ssl.create_default_context(cafile=str(authority.ca))

    def send(port: int) -> None:
        with smtplib.SMTP_SSL("localhost", port, context=context, timeout=20, local_hostname="c") as client:
            client._host = NAME  # type: ignore[attr-defined]
            client.login("mx", "secret", initial_response_ok=False)
            client.sendmail("a@example.org", ["u0@example.org"], BODY)

    async def test() -> None:
        context.check_hostname = False
        async with router_of(logins, tls=tls, received=True, door=Door(smtp=True, tls=True)) as router:
            await asyncio.to_thread(send, router.port)
            assert b" with ESMTPSA id " in b" ".join(router.backends["a"].messages[0].body.split())
            with pytest.raises(smtplib.SMTPAuthenticationError):
                await asyncio.to_thread(fail, router.port)

    def fail(port: int) -> None:
        with smtplib.SMTP_SSL("localhost", port, context=context, timeout=20, local_hostname="c") as client:
            client.login("mx", "wrong")

    play(test)


def test_without_tls_strangers_are_strangers(logins: ClientLogins) -> None:
    """They could say no password, and so nothing."""

    async def test() -> None:
        async with router_of(logins, **BEYOND) as router:
            reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
            writer.write(b"PROXY TCP4 192.0.2.7 127.0.0.1 4321 24\r\n")
            assert (await LmtpClient(reader, writer).at_end()).startswith(b"421 4.7.1")
            writer.close()

    play(test)


def test_a_stranger_has_so_much_time(
    logins: ClientLogins, authority: Authority, tls: ServerTls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmtp_router.channel, "LOGIN_S", 1.0)

    async def test() -> None:
        async with router_of(logins, tls=tls, **BEYOND) as router:
            late, good = await stranger(router, authority, hello=False), await stranger(router, authority)
            assert (await good.ask(b"AUTH PLAIN " + GOOD)).startswith(b"235")

            assert (await late.ask(b"NOOP")).startswith(b"250")
            assert (await late.reply()).startswith(b"421 4.4.2")
            await good.message(BODY, U)

    play(test)


def test_strangers_leave_room(
    logins: ClientLogins, authority: Authority, tls: ServerTls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmtp_router.frontend, "MAX_STRANGERS", 2)

    async def test() -> None:
        async with router_of(logins, tls=tls, **BEYOND) as router:
            first, _ = [await stranger(router, authority) for _ in range(2)]
            reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
            writer.write(b"PROXY TCP4 192.0.2.7 127.0.0.1 4321 24\r\n")
            assert (await LmtpClient(reader, writer).at_end()).startswith(b"421 4.3.2")
            writer.close()
            known = await asyncio.open_connection("127.0.0.1", router.port)
            known[1].write(b"PROXY TCP4 127.0.0.1 127.0.0.1 4321 24\r\n")
            assert (await LmtpClient(*known).reply()).startswith(b"220")
            known[1].close()
            assert (await first.ask(b"AUTH PLAIN " + GOOD)).startswith(b"235")
            await stranger(router, authority, hello=False)

    play(test)
