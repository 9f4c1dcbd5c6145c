"""TLS on both sides of the router: what is forgotten when it begins, who is believed, and who pays when it fails."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from cyrusext.net.tls import ClientTls, ServerTls
from cyrusext.runtime.config_schema import Timeouts
from lmtp_router.doors import Door
from lmtp_router.protocol.handshake import Tls
from lmtp_router.settings import BackendTls
from tests.harness.certificates import Authority, Certificate
from tests.harness.lmtp_peer import (
    LmtpClient,
    RouterUnderTest,
    Script,
    ScriptedBackend,
    listening_socket,
    play,
    wait_until,
)
from tests.harness.router_daemon import Daemon

pytestmark = pytest.mark.faults

U, V = b"<u0@example.org>", b"<u1@example.org>"
BODY = b"Subject: x\r\n\r\nhello\r\n"
NAME = "router.example.org"
STARTTLS = b"250-backend\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 STARTTLS\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def server_tls(authority: Authority) -> ServerTls:
    made = authority.issue("router", f"/CN={NAME}", f"DNS:{NAME}")
    return ServerTls(str(made.cert), str(made.key))


def believing(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


async def starttls(client: LmtpClient, context: ssl.SSLContext) -> None:
    assert (await client.ask(b"STARTTLS")).startswith(b"220 2.0.0")
    await client.writer.start_tls(context, server_hostname=NAME)


def test_a_client_comes_through_starttls_and_sends_mail(authority: Authority, server_tls: ServerTls) -> None:
    async def test() -> None:
        async with RouterUnderTest({"a": ScriptedBackend()}, settings={"tls": server_tls}) as router:
            client = await router.client(lhlo=False)
            assert b"STARTTLS" in await client.ask(b"LHLO c")
            await starttls(client, believing(authority))
            assert (await client.ask(b"MAIL FROM:<>")).startswith(b"503"), "it has to say LHLO again"
            assert b"STARTTLS" not in await client.ask(b"LHLO c")
            assert (await client.ask(b"STARTTLS")).startswith(b"500")
            assert await client.message(BODY, U) == [b"250 2.1.5 %b delivered\r\n" % U]
            large = b"x" * 98 + b"\r\n"
            await client.message(large * 50_000, U)
            assert router.backends["a"].messages[1].body == large * 50_000
            assert (await client.ask(b"QUIT")).startswith(b"221")
            assert await client.at_end() == b""

    play(test)


def test_ends_that_hang_up_under_tls_are_no_errors(
    authority: Authority, server_tls: ServerTls, capfd: pytest.CaptureFixture[str]
) -> None:
    async def test() -> None:
        made = authority.issue("be", "/CN=be.example.org", "DNS:be.example.org")
        backend = secure_backend(made, authority)
        settings = {"tls": server_tls, **backend_tls(authority)}
        async with RouterUnderTest({"a": backend}, settings=settings) as router:
            client = await router.client()
            await starttls(client, believing(authority))
            await client.ask(b"LHLO c")
            await client.message(BODY, U)
            backend.close_all()
            client.close()
            assert router.frontend is not None
            frontend = router.frontend
            await wait_until(lambda: not frontend.sessions and not backend.live, "both have gone")

    play(test)
    err = capfd.readouterr().err
    assert "Traceback" not in err and "Error" not in err, err


def test_a_door_of_tls(authority: Authority, server_tls: ServerTls) -> None:
    async def test() -> None:
        backends = {"a": ScriptedBackend()}
        async with RouterUnderTest(backends, settings={"tls": server_tls}, door=Door(tls=True)) as router:
            client = await router.client(tls=believing(authority))
            assert b"STARTTLS" not in await client.ask(b"LHLO c")
            await client.message(BODY, U)
            assert (await client.ask(b"QUIT")).startswith(b"221")
            # Text in the clear is no handshake.
            reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
            writer.write(b"LHLO c\r\n")
            assert b"220" not in await LmtpClient(reader, writer).at_end()
            writer.close()
            assert router.frontend is not None
            frontend = router.frontend
            await wait_until(lambda: not frontend.sessions, "no session is left")

    play(test)


@pytest.mark.parametrize("behind", [b"MAIL FROM:<>\r\n", b"LHLO evil\r\nMAIL FROM:<>\r\n", b"x"])
def test_nothing_may_follow_starttls(server_tls: ServerTls, behind: bytes) -> None:
    async def test() -> None:
        async with RouterUnderTest({"a": ScriptedBackend()}, settings={"tls": server_tls}) as router:
            client = await router.client()
            client.send(b"NOOP\r\nSTARTTLS\r\n" + behind)
            assert (await client.reply()).startswith(b"250")
            assert (await client.reply()).startswith(b"501 5.5.4")
            assert await client.at_end() == b""

    play(test)


def test_what_is_sent_in_the_clear_after_the_command_is_not_understood(server_tls: ServerTls) -> None:
    async def test() -> None:
        async with RouterUnderTest({"a": ScriptedBackend()}, settings={"tls": server_tls}) as router:
            client = await router.client()
            assert (await client.ask(b"STARTTLS")).startswith(b"220")
            client.send(b"LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<u0@example.org>\r\n")
            assert b"250" not in await client.at_end()
            assert router.lookup.asked == []

    play(test)


def test_starttls_in_a_transaction_or_before_lhlo(server_tls: ServerTls) -> None:
    async def test() -> None:
        async with RouterUnderTest({"a": ScriptedBackend()}, settings={"tls": server_tls}) as router:
            client = await router.client(lhlo=False)
            assert (await client.ask(b"STARTTLS")).startswith(b"503")
            await client.ask(b"LHLO c")
            assert (await client.ask(b"STARTTLS now")).startswith(b"501")
            await client.envelope(U)
            assert (await client.ask(b"STARTTLS")).startswith(b"503")
        async with RouterUnderTest({"a": ScriptedBackend()}) as router:
            client = await router.client()
            assert (await client.ask(b"STARTTLS")).startswith(b"500"), "not offered"

    play(test)


def test_who_never_begins_the_handshake_is_cut(server_tls: ServerTls) -> None:
    async def test() -> None:
        short = Timeouts(greeting=0.2)
        settings = {"tls": server_tls}
        for door in (Door(), Door(tls=True)):
            async with RouterUnderTest(
                {"a": ScriptedBackend()}, timeouts=short, settings=settings, door=door
            ) as router:
                client = LmtpClient(*await asyncio.open_connection("127.0.0.1", router.port))
                if not door.tls:
                    await client.reply()
                    await client.ask(b"LHLO c")
                    await client.ask(b"STARTTLS")
                await client.at_end()
                client.close()
                assert router.frontend is not None
                frontend = router.frontend
                await wait_until(lambda frontend=frontend: not frontend.sessions, "no session is left")  # type: ignore[misc]

    play(test)


def test_a_drain_ends_clients_under_tls_and_those_who_begin_it(authority: Authority, server_tls: ServerTls) -> None:
    async def test() -> None:
        async with RouterUnderTest({"a": ScriptedBackend()}, settings={"tls": server_tls}) as router:
            under, beginning = await router.client(), await router.client()
            await starttls(under, believing(authority))
            await under.ask(b"LHLO c")
            assert (await beginning.ask(b"STARTTLS")).startswith(b"220")
            assert router.frontend is not None
            stopping = asyncio.ensure_future(router.frontend.stop())
            assert (await under.reply()).startswith(b"421 4.3.2")
            beginning.close()
            await asyncio.wait_for(stopping, 10)

    play(test)


# Backends.


def secure_backend(made: Certificate, authority: Authority | None = None, **script: object) -> ScriptedBackend:
    context = ServerTls(str(made.cert), str(made.key), str(authority.ca) if authority else "").context
    return ScriptedBackend(Script(lhlo=STARTTLS, tls=context, **script))  # type: ignore[arg-type]


def backend_tls(authority: Authority, mode: Tls = Tls.VERIFY, name: str = "be.example.org") -> dict[str, object]:
    tls = ClientTls(str(authority.ca) if mode is Tls.VERIFY else "", verify=mode is Tls.VERIFY)
    return {"backend_tls": BackendTls(mode, tls, external=False, name_of=lambda server: name)}


def test_a_backend_is_spoken_to_under_tls(authority: Authority) -> None:
    made = authority.issue("be", "/CN=be", "DNS:be.example.org")

    async def test() -> None:
        backend = secure_backend(made)
        async with RouterUnderTest({"a": backend}, settings=backend_tls(authority)) as router:
            client = await router.client()
            for _ in range(3):
                await client.message(BODY, U)
            large = b"x" * 98 + b"\r\n"
            await client.message(large * 50_000, U)
            assert [message.body for message in backend.messages] == [BODY] * 3 + [large * 50_000]
            assert backend.commands.count(b"STARTTLS\r\n") == backend.connections == 1
            assert backend.commands[:4] == [
                b"LHLO router.example.org\r\n",
                b"STARTTLS\r\n",
                b"LHLO router.example.org\r\n",
                b"MAIL FROM:<from@example.org>\r\n",
            ]

    play(test)


@pytest.mark.parametrize(
    ("wound", "said"),
    [
        ("other name", "certificate verify failed"),
        ("other authority", "certificate verify failed"),
        ("not offered", "STARTTLS is not offered"),
        ("refused", "starttls was answered 454"),
        ("closed", "no TLS"),
        ("text", "behind its reply to STARTTLS"),
    ],
)
def test_no_mail_and_no_password_without_the_tls_that_is_demanded(
    authority: Authority, tmp_path: Path, capfd: pytest.CaptureFixture[str], wound: str, said: str
) -> None:
    made = authority.issue("be", "/CN=be", "DNS:be.example.org")
    if wound == "other authority":
        made = Authority(tmp_path).issue("be", "/CN=be", "DNS:be.example.org")
    backend, good = secure_backend(made), secure_backend(authority.issue("good", "/CN=be", "DNS:be.example.org"))
    offers = b"250-b\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n"
    match wound:
        case "not offered":
            backend.script.lhlo = b"250-b\r\n250-8BITMIME\r\n250 AUTH PLAIN\r\n"
        case "refused":
            backend.script.starttls = b"454 4.7.0 not now\r\n"
        case "closed":
            backend.script.tls = None
        case "text":
            backend.script.starttls = b"220 go\r\n" + offers

    async def test() -> None:
        name = {"a": "other.example.org" if wound == "other name" else "be.example.org", "b": "be.example.org"}
        tls = BackendTls(
            Tls.VERIFY, ClientTls(str(authority.ca), verify=True), external=False, name_of=name.__getitem__
        )
        async with RouterUnderTest(
            {"a": backend, "b": good}, credentials=("murder", "secret"), settings={"backend_tls": tls}
        ) as router:
            client = await router.client()
            replies = await client.envelope(U, V)
            assert [reply[:9] for reply in replies] == [b"451 4.4.1", b"250 2.1.5"]
            assert (await client.ask(b"DATA")).startswith(b"354")
            client.send(BODY + b".\r\n")
            assert (await client.reply()).startswith(b"250")
        assert backend.messages == []
        assert not [line for line in backend.commands if line.startswith((b"AUTH", b"MAIL"))]
        assert len(good.messages) == 1

    play(test)
    assert said in capfd.readouterr().err


@pytest.mark.parametrize("wound", ["none", "not offered", "refused", "closed"])
def test_where_tls_may_be_mail_goes_on_without(authority: Authority, tmp_path: Path, wound: str) -> None:
    made = Authority(tmp_path).issue("be", "/CN=whoever")
    backend = secure_backend(made)
    match wound:
        case "not offered":
            backend.script.lhlo = b"250-b\r\n250 8BITMIME\r\n"
        case "refused":
            backend.script.starttls = b"454 4.7.0 not now\r\n"
        case "closed":
            backend.script.tls = None

    async def test() -> None:
        async with RouterUnderTest({"a": backend}, settings=backend_tls(authority, Tls.MAY)) as router:
            client = await router.client()
            assert await client.message(BODY, U) == [b"250 2.1.5 %b delivered\r\n" % U]
            assert backend.connections == (2 if wound == "closed" else 1)

    play(test)


def test_a_backend_that_never_ends_the_handshake_costs_its_own_recipients(authority: Authority) -> None:
    async def test() -> None:
        hung = ScriptedBackend(Script(lhlo=STARTTLS))
        hold = asyncio.Event()

        async def step(place: str) -> None:
            if place == "greeting":
                return
            await hold.wait()

        hung.script.step = step
        silent = await asyncio.start_server(lambda reader, writer: _say_starttls(reader, writer, hold), "127.0.0.1", 0)
        hung.port = silent.sockets[0].getsockname()[1]
        good = secure_backend(authority.issue("good", "/CN=be", "DNS:be.example.org"))
        timeouts = Timeouts(greeting=0.3)
        async with RouterUnderTest(
            {"a": hung, "b": good}, timeouts=timeouts, settings=backend_tls(authority)
        ) as router:
            client = await router.client()
            replies = await client.envelope(U, V)
            assert [reply[:3] for reply in replies] == [b"451", b"250"]
            hold.set()
        silent.close()

    play(test)


async def _say_starttls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hold: asyncio.Event) -> None:
    """A backend that offers TLS, takes STARTTLS, and then says nothing."""
    writer.write(b"220 b\r\n")
    await reader.readline()
    writer.write(STARTTLS)
    await reader.readline()
    writer.write(b"220 go\r\n")
    await hold.wait()
    writer.close()


def test_our_certificate_logs_us_in(authority: Authority) -> None:
    made = authority.issue("be", "/CN=be", "DNS:be.example.org")
    ours = authority.issue("router-client", "/CN=murder")

    async def test() -> None:
        backend = secure_backend(made, authority, secure_lhlo=b"250-b\r\n250-PIPELINING\r\n250 AUTH PLAIN EXTERNAL\r\n")
        client_tls = ClientTls(str(authority.ca), str(ours.cert), str(ours.key), verify=True)
        tls = BackendTls(Tls.VERIFY, client_tls, external=True, name_of=lambda server: "be.example.org")
        async with RouterUnderTest(
            {"a": backend}, credentials=("murder", "secret"), settings={"backend_tls": tls}
        ) as router:
            client = await router.client()
            await client.message(BODY, U)
            assert [line for line in backend.commands if line.startswith(b"AUTH")] == [b"AUTH EXTERNAL =\r\n"]

    play(test)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_do_not_leak(authority: Authority, server_tls: ServerTls) -> None:
    """Handshakes that fail on both sides, again and again."""

    async def test() -> None:
        backend = secure_backend(authority.issue("be", "/CN=be", "DNS:be.example.org"))
        wrong = backend_tls(authority, name="other.example.org")
        async with RouterUnderTest({"a": backend}, settings={"tls": server_tls, **wrong}) as router:
            before = 0
            for turn in range(20):
                client = await router.client()
                await client.envelope(U)
                await client.ask(b"RSET")
                await client.ask(b"STARTTLS")
                client.send(b"no handshake\r\n")
                await client.at_end()
                client.close()
                if turn == 5:
                    before = open_files()
            assert open_files() <= before + 2

    play(test)


# The daemon.


def serial(client: LmtpClient) -> str:
    certificate = client.writer.get_extra_info("peercert")
    assert certificate is not None
    return str(certificate["serialNumber"])


def test_a_new_certificate_is_shown_to_new_sessions_and_drops_none(authority: Authority, tmp_path: Path) -> None:
    first = authority.issue("first", f"/CN={NAME}", f"DNS:{NAME}")
    second = authority.issue("second", f"/CN={NAME}", f"DNS:{NAME}")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def install(made: Certificate) -> None:
        cert.write_bytes(made.cert.read_bytes())
        key.write_bytes(made.key.read_bytes())
        key.chmod(0o600)

    install(first)
    with listening_socket() as sock:
        port = sock.getsockname()[1]
    context = believing(authority)

    async def implicit() -> LmtpClient:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=NAME)
        client = LmtpClient(reader, writer)
        assert (await client.reply()).startswith(b"220")
        assert b"STARTTLS" not in await client.ask(b"LHLO c")
        return client

    async def explicit(router: Daemon) -> LmtpClient:
        client = await router.client()
        assert (await client.ask(b"STARTTLS")).startswith(b"220")
        await client.writer.start_tls(context, server_hostname=NAME)
        await client.ask(b"LHLO c")
        return client

    async def test() -> None:
        extra = f'implicit_tls = ["127.0.0.1:{port}"]\ntls_cert = "{cert}"\ntls_key = "{key}"\n'
        router = Daemon(tmp_path, extra)
        router.more = [f"127.0.0.1:{port}"]
        beating = asyncio.create_task(router.beat())
        try:
            await router.start()
            old = [await implicit(), await explicit(router)]
            shown = {serial(client) for client in old}
            busy = old[0]
            assert all(reply.startswith(b"250") for reply in await busy.envelope(b"<alice@example.org>"))
            assert (await busy.ask(b"DATA")).startswith(b"354")
            busy.send(BODY)
            install(second)
            router.reload()
            await wait_until(lambda: router.events("lmtp.reloaded") == 1, "the new certificate is taken", 30)
            new = [await implicit(), await explicit(router)]
            assert len({serial(client) for client in new}) == 1
            assert not shown & {serial(client) for client in new}
            busy.send(b".\r\n")
            assert (await busy.reply()).startswith(b"250")
            for client in [*old, *new]:
                assert (await client.message(BODY, b"<bob@example.org>"))[0].startswith(b"250")
            # A file that is no certificate changes nothing.
            cert.write_text("no certificate")
            router.reload()
            await wait_until(lambda: router.events("lmtp.reload_failed") == 1, "the fault is found", 30)
            assert (await (await implicit()).message(BODY, b"<bob@example.org>"))[0].startswith(b"250")
            for client in [*old, *new]:
                client.close()
        finally:
            beating.cancel()
            await router.stop()

    play(test)
