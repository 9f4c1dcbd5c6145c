"""What lies between the protocol and the socket: STARTTLS, client certificates, COMPRESS, over real connections."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyrusext.mupdate.service import Bounds, Service
from cyrusext.net.sasl import NOTHING_PROVED, Exchange, LoginRefused, Proved, Step
from cyrusext.net.tls import ServerTls
from tests.dialogues.runner import Deflater
from tests.harness.certificates import Authority, Certificate
from tests.harness.inprocess import InProcessMaster
from tests.harness.mupdate import Mupdate, literal
from tests.harness.waiting import wait_until

PLAIN = base64.b64encode(b"\0murder\0murderpw")
LOGIN = b'A AUTHENTICATE "PLAIN" "%s"\r\n' % PLAIN
LOGGED_IN = b'A OK "Authenticated"\r\n'


class CertificateLogins:
    """EXTERNAL without libsasl2, whose options belong to the process: whom the certificate names, is it."""

    proven = None

    def exchange(self, proved: Proved = NOTHING_PROVED) -> Exchange:
        return CertificateExchange(proved)


class CertificateExchange:
    def __init__(self, proved: Proved) -> None:
        self._proved = proved

    def start(self, mechanism: str, initial: bytes | None) -> Step:
        if mechanism != "EXTERNAL" or not self._proved.identity:
            raise LoginRefused("no certificate")
        return Step(True, b"", self._proved.identity)

    def step(self, response: bytes) -> Step:
        raise LoginRefused("not begun")

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> ServerTls:
    made = authority.issue("server", "/CN=mup.lab", "DNS:mup.lab")
    return ServerTls(str(made.cert), str(made.key), str(authority.ca))


@pytest.fixture
def master(tmp_path: Path, tls: ServerTls) -> Iterator[InProcessMaster]:
    with InProcessMaster(tmp_path, tls=tls, bounds=Bounds(handshake_s=1.0)) as running:
        yield running


def context(authority: Authority, certificate: Certificate | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(authority.ca))
    if certificate is not None:
        made.load_cert_chain(certificate.cert, certificate.key)
    return made


def read_until(client: socket.socket, end: bytes) -> bytes:
    """Read up to `end`; what the server said before it closed, where it does not come."""
    heard = b""
    while not heard.endswith(end):
        try:
            data = client.recv(65536)
        except (ConnectionResetError, ssl.SSLError):
            break
        if not data:
            break
        heard += data
    return heard


def greeted(master: InProcessMaster) -> socket.socket:
    client = master.raw()
    assert b'* STARTTLS\r\n* COMPRESS "DEFLATE"\r\n' in read_until(client, b'"(master)"\r\n')
    return client


def upgraded(master: InProcessMaster, settings: ssl.SSLContext) -> tuple[ssl.SSLSocket, bytes]:
    """A connection under TLS and the banner that it heard there."""
    client = greeted(master)
    client.sendall(b"S STARTTLS\r\n")
    assert read_until(client, b"\r\n") == b'S OK "Begin TLS negotiation now"\r\n'
    secure = settings.wrap_socket(client, server_hostname="mup.lab")
    return secure, read_until(secure, b'"(master)"\r\n')


def say(client: socket.socket, data: bytes, end: bytes) -> bytes:
    client.sendall(data)
    return read_until(client, end)


def test_after_tls_comes_the_banner_again_and_then_all_as_before(master: InProcessMaster, authority: Authority) -> None:
    with upgraded(master, context(authority))[0] as client:
        assert client.version() == "TLSv1.3"
        assert say(client, LOGIN, b"\r\n") == LOGGED_IN
        name = literal(b"user.tls")
        assert say(client, b'B ACTIVATE %s "be1!p" "a\tlrs\t"\r\n' % name, b"\r\n") == b'B OK "done"\r\n'
        assert b"user.tls" in say(client, b"C LIST\r\n", b'C OK "list complete"\r\n')
        assert say(client, b"S STARTTLS\r\n", b"\r\n") == b'S BAD "Can\'t Starttls after authentication"\r\n'
        assert say(client, b"Q LOGOUT\r\n", b"never") == b'Q OK "bye-bye"\r\n'


def test_the_banner_under_tls_offers_no_second_tls(master: InProcessMaster, authority: Authority) -> None:
    client, banner = upgraded(master, context(authority))
    with client:
        assert banner.startswith(b'* AUTH "PLAIN"\r\n* COMPRESS "DEFLATE"\r\n* PARTIAL-UPDATE\r\n* OK MUPDATE')
        assert say(client, b"S STARTTLS\r\n", b"\r\n") == b'S NO "TLS is already active"\r\n'
        assert say(client, LOGIN, b"\r\n") == LOGGED_IN


def test_a_stream_and_much_data_under_tls(master: InProcessMaster, authority: Authority) -> None:
    writer = master.connect()
    for number in range(300):
        writer.ok(b"ACTIVATE", b"user.n%03d" % number, b"be1!default", b"a\tlrs\t" * 1000)
    with upgraded(master, context(authority))[0] as client:
        say(client, LOGIN, b"\r\n")
        heard = say(client, b"U UPDATE\r\n", b'U OK "streaming starts"\r\n')
        assert heard.count(b"U MAILBOX ") == 300
        assert heard.count(b"a\tlrs\t" * 1000) == 300
        writer.ok(b"DELETE", b"user.n000")
        assert read_until(client, b"user.n000\r\n").endswith(b"U DELETE {9+}\r\nuser.n000\r\n")


def test_what_is_pipelined_behind_starttls_is_never_executed(master: InProcessMaster, authority: Authority) -> None:
    """CVE-2011-0411: a command slipped in before the handshake must not run after it, in whose name ever."""
    client = greeted(master)
    client.sendall(b"S STARTTLS\r\n" + LOGIN + b'B ACTIVATE "user.evil" "be1!p" ""\r\n')
    assert read_until(client, b"\r\n") == b'S OK "Begin TLS negotiation now"\r\n'
    with context(authority).wrap_socket(client, server_hostname="mup.lab") as secure:
        assert read_until(secure, b'"(master)"\r\n').count(b"\r\n") == 4
        assert say(secure, b"N NOOP\r\n", b"\r\n") == b'N BAD "Please login first"\r\n'
        assert say(secure, LOGIN, b"\r\n") == LOGGED_IN
    assert master.connect().find(b"user.evil") is None


def test_plaintext_where_the_handshake_should_be_ends_the_connection(master: InProcessMaster) -> None:
    client = greeted(master)
    client.sendall(b"S STARTTLS\r\n")
    assert read_until(client, b"\r\n") == b'S OK "Begin TLS negotiation now"\r\n'
    client.sendall(LOGIN)
    assert b"Authenticated" not in read_until(client, b"never")
    wait_until(lambda: len(master.server) == 0, "the session has ended")


def test_a_handshake_that_nobody_begins_has_a_deadline(master: InProcessMaster) -> None:
    client = greeted(master)
    client.sendall(b"S STARTTLS\r\n")
    assert read_until(client, b"never") == b'S OK "Begin TLS negotiation now"\r\n'
    wait_until(lambda: len(master.server) == 0, "the session has ended")


@pytest.mark.parametrize("reset", [False, True])
def test_whoever_leaves_around_tls_harms_nobody(master: InProcessMaster, authority: Authority, reset: bool) -> None:
    """The stock master dies of the first or the second of these."""
    for stage in ("asked", "half", "done", "logged in", "streaming"):
        client = greeted(master)
        client.sendall(b"S STARTTLS\r\n")
        read_until(client, b"\r\n")
        if stage == "half":
            client.sendall(b"\x16\x03\x01\x02\x00\x01")
        if stage in ("done", "logged in", "streaming"):
            client = context(authority).wrap_socket(client, server_hostname="mup.lab")
            read_until(client, b'"(master)"\r\n')
        if stage in ("logged in", "streaming"):
            say(client, LOGIN, b"\r\n")
        if stage == "streaming":
            say(client, b"U UPDATE\r\n", b'"streaming starts"\r\n')
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    wait_until(lambda: len(master.server) == 0, "all sessions have ended")
    for _ in range(2):
        with upgraded(master, context(authority))[0] as secure:
            assert say(secure, LOGIN, b"\r\n") == LOGGED_IN
    master.connect().ok(b"NOOP")


def test_a_session_can_be_resumed(master: InProcessMaster, authority: Authority) -> None:
    settings = context(authority)
    settings.maximum_version = ssl.TLSVersion.TLSv1_2
    first, _ = upgraded(master, settings)
    kept = first.session
    first.close()
    client = greeted(master)
    say(client, b"S STARTTLS\r\n", b"\r\n")
    with settings.wrap_socket(client, server_hostname="mup.lab", session=kept) as second:
        read_until(second, b'"(master)"\r\n')
        assert second.session_reused
        assert say(second, LOGIN, b"\r\n") == LOGGED_IN


def test_tls_1_1_is_refused(master: InProcessMaster, authority: Authority) -> None:
    settings = context(authority)
    settings.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        settings.minimum_version = ssl.TLSVersion.TLSv1_1
        settings.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        upgraded(master, settings)


def test_the_end_is_told_under_tls_and_a_handshake_does_not_hold_it_up(tmp_path: Path, tls: ServerTls) -> None:
    place = tmp_path / "master"
    place.mkdir()
    with InProcessMaster(place, tls=tls) as master:
        settings = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        settings.check_hostname, settings.verify_mode = False, ssl.CERT_NONE
        client, _ = upgraded(master, settings)
        say(client, LOGIN, b"\r\n")
        waiting = greeted(master)
        say(waiting, b"S STARTTLS\r\n", b"\r\n")
        master.stop()
        assert read_until(client, b"never") == b'* BYE "server is shutting down"\r\n'
        assert read_until(waiting, b"never") == b""
        client.close()


def test_without_a_certificate_there_is_no_starttls(tmp_path: Path) -> None:
    with InProcessMaster(tmp_path) as master:
        client = master.raw()
        assert b"STARTTLS" not in read_until(client, b'"(master)"\r\n')
        assert say(client, b"S STARTTLS\r\n", b"\r\n") == b'S BAD "Unrecognized command"\r\n'


# Who a certificate is.


@pytest.mark.parametrize(
    ("subject", "alternative", "offered", "admitted"),
    [
        ("/CN=murder", "", True, True),
        ("/CN=alice", "", True, False),
        ("/O=nobody", "", False, False),
        ("", "", False, False),
    ],
)
def test_external(
    tmp_path: Path, tls: ServerTls, authority: Authority, subject: str, alternative: str, offered: bool, admitted: bool
) -> None:
    certificate = authority.issue("client", subject, alternative) if subject else None
    mechanisms = ("EXTERNAL", "PLAIN")
    with InProcessMaster(tmp_path, tls=tls, mechanisms=mechanisms, logins=CertificateLogins()) as master:
        assert master.connect(user="").banner[0] == b'* AUTH "PLAIN"'
        client, banner = upgraded(master, context(authority, certificate))
        with client:
            assert banner.startswith(b'* AUTH "EXTERNAL" "PLAIN"\r\n' if offered else b'* AUTH "PLAIN"\r\n')
            answer = say(client, b'A AUTHENTICATE "EXTERNAL" ""\r\n', b"\r\n")
            assert answer == (LOGGED_IN if admitted else b'A NO "undefined error!"\r\n')


def test_a_certificate_of_another_authority_is_no_way_in(tmp_path: Path, tls: ServerTls, authority: Authority) -> None:
    stranger = Authority(tmp_path / "other").issue("client", "/CN=murder")
    mechanisms = ("EXTERNAL", "PLAIN")
    with InProcessMaster(tmp_path, tls=tls, mechanisms=mechanisms, logins=CertificateLogins()) as master:
        try:
            client, banner = upgraded(master, context(authority, stranger))
        except (ssl.SSLError, ConnectionError):
            banner = b""
        else:
            client.close()
        assert b"EXTERNAL" not in banner
        wait_until(lambda: len(master.server) == 0, "the session has ended")


PRIVATE = ("PLAIN", "SCRAM-SHA-256")


@pytest.mark.parametrize(
    ("host", "proved", "mechanisms"),
    [
        ("", None, PRIVATE),
        ("127.64.1.2", None, PRIVATE),
        ("::1", None, PRIVATE),
        ("10.1.2.3", None, ("SCRAM-SHA-256",)),
        ("2001:db8::1", None, ("SCRAM-SHA-256",)),
        ("fe80::1%eth0", None, ("SCRAM-SHA-256",)),
        ("10.1.2.3", Proved("", 256), PRIVATE),
        ("10.1.2.3", Proved("murder", 256), (*PRIVATE, "EXTERNAL")),
    ],
)
def test_a_password_crosses_no_network_in_the_clear(
    host: str, proved: Proved | None, mechanisms: tuple[str, ...]
) -> None:
    service = Service.__new__(Service)
    object.__setattr__(service, "mechanisms", (*PRIVATE, "EXTERNAL"))
    assert service.mechanisms_for(host, proved) == mechanisms


# COMPRESS.


class Compressed:
    """A client that has sent COMPRESS and had its OK."""

    def __init__(self, client: socket.socket) -> None:
        self._client, self._deflater, self._heard = client, Deflater(), b""
        assert say(client, b'Z COMPRESS "DEFLATE"\r\n', b"\r\n") == b'Z OK "DEFLATE active"\r\n'

    def send(self, data: bytes) -> None:
        self._client.sendall(self._deflater.deflate(data))

    def read_until(self, end: bytes) -> bytes:
        while not self._heard.endswith(end):
            data = self._client.recv(65536)
            if not data:
                break
            self._heard += self._deflater.inflate(data)
        heard, self._heard = self._heard, b""
        return heard


def test_deflate_under_tls_and_a_stream_through_it(master: InProcessMaster, authority: Authority) -> None:
    writer = master.connect()
    with upgraded(master, context(authority))[0] as secure:
        client = Compressed(secure)
        client.send(LOGIN)
        assert client.read_until(b"\r\n") == LOGGED_IN
        client.send(b"U UPDATE\r\n")
        assert client.read_until(b'"streaming starts"\r\n')
        writer.ok(b"ACTIVATE", b"user.pushed", b"be1!default", b"")
        assert b"user.pushed" in client.read_until(b"{0+}\r\n\r\n")
        client.send(b"Q LOGOUT\r\n")
        assert client.read_until(b"never") == b'Q OK "bye-bye"\r\n'


def test_many_pipelined_commands_in_few_bytes_are_all_answered(master: InProcessMaster) -> None:
    """5 MB of commands in some 20 kB: inflated and answered piece by piece."""
    client = Compressed(greeted(master))
    client.send(LOGIN)
    assert client.read_until(b"\r\n") == LOGGED_IN
    command = b"F FIND %s\r\n" % literal(b"user." + b"x" * 400)
    client.send(command * 12_000 + b"L NOOP\r\n")
    heard = client.read_until(b'L OK "Noop done"\r\n')
    assert heard.count(b'F OK "Search completed"\r\n') == 12_000


def test_a_stranger_s_bomb_is_one_long_line_and_no_more(master: InProcessMaster) -> None:
    client = Compressed(greeted(master))
    bomb = zlib.compressobj(9, wbits=-15)
    client._client.sendall(bomb.compress(b"x" * (200 << 20)) + bomb.flush(zlib.Z_SYNC_FLUSH))
    with contextlib.suppress(ConnectionResetError):
        assert b"BAD" in client.read_until(b"never")
    wait_until(lambda: len(master.server) == 0, "the session has ended")


def test_what_is_no_deflate_ends_the_connection_with_the_reason(master: InProcessMaster) -> None:
    client = Compressed(greeted(master))
    client._client.sendall(b"\xff" * 100)
    assert client.read_until(b"never") == b'* BYE "the compressed data is damaged"\r\n'


def test_nothing_may_be_pipelined_behind_compress(master: InProcessMaster) -> None:
    client = greeted(master)
    client.sendall(b'Z COMPRESS "DEFLATE"\r\nN NOOP\r\n')
    assert read_until(client, b"never") == b'* BYE "nothing may follow COMPRESS before its answer"\r\n'


def test_compress_waits_for_the_changes_before_it(master: InProcessMaster) -> None:
    client: Mupdate = master.connect()
    changes = b"".join(b"%d RESERVE %s %s\r\n" % (n, literal(b"n%d" % n), literal(b"be1!p")) for n in range(50))
    client.send(changes + b'Z COMPRESS "DEFLATE"\r\n')
    assert [client.receive().verb for _ in range(50)] == ["OK"] * 50
    assert client.receive()[:2] == ("Z", "OK")
