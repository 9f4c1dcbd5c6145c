"""What a server connection makes of a peer that breaks the protocol, and a client connection of such a server."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cyrusext.errors import LocalProtocolError, RemoteProtocolError
from cyrusext.mupdate.connection import LOGIN_LIMITS, MAX_VIOLATIONS, ClientConnection, ServerConnection
from cyrusext.mupdate.state import AUTHENTICATED, LOGGED_OUT, NOT_AUTHENTICATED, STREAMING
from cyrusext.mupdate.types import (
    NEED_DATA,
    PAUSED,
    Authenticate,
    Bad,
    Banner,
    Bye,
    Challenge,
    Compress,
    Find,
    GoAhead,
    List,
    Logout,
    Mailbox,
    No,
    Noop,
    Ok,
    ProtocolViolation,
    SaslCancelled,
    SaslResponse,
    ServerEvent,
    Starttls,
    Update,
)
from cyrusext.wire.framer import Limits
from cyrusext.wire.sasl import Secret

BANNER = b'* AUTH "PLAIN"\r\n* STARTTLS\r\n* OK MUPDATE "a" "b" "c" "d"\r\n'


def new_server(
    *,
    starttls: bool = False,
    compress: Sequence[str] = (),
    limits: Limits = Limits(),  # noqa: B008
) -> ServerConnection:
    return ServerConnection(
        hostname="node1", version="0", mechanisms=["PLAIN"], starttls=starttls, compress=compress, limits=limits
    )


def logged_in(server: ServerConnection | None = None) -> ServerConnection:
    server = server or new_server()
    server.receive_data(b'A AUTHENTICATE "PLAIN" "AG11cmRlcgBtdXJkZXJwdw=="\r\n')
    assert isinstance(server.next_event(), Authenticate)
    assert server.send(Ok(b"A", "Authenticated")) == b'A OK "Authenticated"\r\n'
    return server


def ask(server: ServerConnection, data: bytes) -> ServerEvent:
    server.receive_data(data)
    return server.next_event()


def bad(text: bytes, *, close: bool = False) -> ProtocolViolation:
    """The violation answered by the one line `text`."""
    return ProtocolViolation(text + b"\r\n", close, text.split(b'"')[1].decode())


def test_before_login_a_command_is_refused_whatever_its_arguments() -> None:
    server = new_server()
    for data in (b"a FIND\r\n", b'a FIND "x"\r\n', b"a FIND {3+}\r\nabc\r\n", b"a NOOP x\r\n"):
        assert ask(server, data) == bad(b'a BAD "Please login first"')  # quirk BAD_BEFORE_LOGIN
    assert ask(server, b"a LOGOUT x\r\n") == bad(b'a BAD "Extra arguments"')
    assert server.state is NOT_AUTHENTICATED


def test_a_synchronising_literal_gets_its_go_ahead() -> None:
    server = logged_in()
    assert ask(server, b"a FIND {3}\r\n") == GoAhead(b"+ go ahead\r\n")
    assert ask(server, b"abc\r\n") == Find(b"a", b"abc")


def test_a_literal_over_the_limit_gets_no_go_ahead() -> None:
    server = logged_in(new_server(limits=Limits(literal=10)))
    assert ask(server, b"a FIND {11}\r\n") == bad(b'a BAD "literal too long"')  # quirk LITERAL_LIMIT
    assert ask(server, b"a FIND {11+}\r\nb LOGOUT x y\r\n") == bad(b'a BAD "literal too long"')
    assert ask(server, b"c NOOP\r\n") == Noop(b"c")


def test_a_literal_beyond_all_bounds_ends_the_connection() -> None:
    server = logged_in()
    assert ask(server, b"a FIND {50000000+}\r\n") == bad(b'a BAD "literal too long"', close=True)
    assert server.state is LOGGED_OUT
    assert ask(server, b"b NOOP\r\n") is PAUSED
    assert server.buffered == 0
    with pytest.raises(LocalProtocolError):
        server.send(Ok(b"a", "x"))
    with pytest.raises(LocalProtocolError):
        server.send_records(b"a", [])


@pytest.mark.parametrize(
    ("data", "event"),
    [
        (b"a \0\r\n", bad(b'a BAD "NUL in a line"')),
        (b"a NO\rOP\r\n", bad(b'a BAD "CR without LF"')),
        (b"\xff\xfe\0\1\r\n", bad(b'* BAD "NUL in a line"')),
        (b"x" * 70000 + b"\r\n", bad(b'* BAD "line too long"', close=True)),
        (b"a " + b"x" * 70000, bad(b'a BAD "line too long"', close=True)),
        (b"a UPDATE" + b" {1+}\r\nx" * 41 + b"\r\n", bad(b'a BAD "too many literals"')),
    ],
)
def test_refused_messages_are_answered_with_their_tag(data: bytes, event: ProtocolViolation) -> None:
    assert ask(logged_in(), data) == event


def test_limits_are_tighter_before_the_login() -> None:
    data = b"a FIND {%d+}\r\n" % (LOGIN_LIMITS.literal + 1)
    assert ask(new_server(), data.replace(b"+", b"")) == bad(b'a BAD "literal too long"')
    assert ask(new_server(), b"a FIND {200000+}\r\n") == bad(b'a BAD "literal too long"', close=True)
    assert ask(logged_in(), data + b"x" * (LOGIN_LIMITS.literal + 1) + b"\r\n") == Find(b"a", b"x" * 65537)


def test_too_many_violations_end_the_connection() -> None:
    server = logged_in()
    for _ in range(MAX_VIOLATIONS - 1):
        assert ask(server, b"junk\r\n") == bad(b'* BAD "Need command"')
    assert ask(server, b"a NOOP\r\n") == Noop(b"a")
    for _ in range(MAX_VIOLATIONS - 1):
        assert ask(server, b"junk\r\n") == bad(b'* BAD "Need command"')
    last = ask(server, b"junk\r\n")
    assert last == ProtocolViolation(b'* BAD "Need command"\r\n* BYE "too many errors"\r\n', True, "Need command")
    assert server.state is LOGGED_OUT


def test_nothing_is_read_before_the_answer_to_authenticate() -> None:
    server = new_server()
    assert ask(server, b'A AUTHENTICATE "PLAIN"\r\nQQ==\r\nb NOOP\r\n') == Authenticate(b"A", "PLAIN")
    assert server.next_event() is PAUSED
    assert server.send(Challenge(Secret(b"x"))) == b"eA==\r\n"
    with pytest.raises(LocalProtocolError):
        server.send(Challenge(Secret(b"")))
    assert server.next_event() == SaslResponse(b"A", Secret(b"A"))
    assert server.next_event() is PAUSED
    server.send(No(b"A", "undefined error!"))
    assert server.state is NOT_AUTHENTICATED
    assert server.next_event() == bad(b'b BAD "Please login first"')


def test_an_exchange_can_be_given_up() -> None:
    server = new_server()
    assert ask(server, b'A AUTHENTICATE "PLAIN"\r\n') == Authenticate(b"A", "PLAIN")
    server.send(Challenge(Secret(b"")))
    assert ask(server, b"*\r\n") == SaslCancelled(b"A")
    assert server.send(No(b"A", "Client canceled authentication")) == b'A NO "Client canceled authentication"\r\n'
    logged_in(server)
    assert server.state is AUTHENTICATED


@pytest.mark.parametrize("line", [b"no base64", b"AAA", b"* ", b"A LOGOUT"])
def test_a_response_that_is_not_base64_ends_the_exchange(line: bytes) -> None:
    server = new_server()
    assert ask(server, b'A AUTHENTICATE "PLAIN"\r\n') == Authenticate(b"A", "PLAIN")
    server.send(Challenge(Secret(b"")))
    assert ask(server, line + b"\r\n") == bad(b'A BAD "Invalid base64 encoding"')
    logged_in(server)


def test_challenges_only_in_an_exchange() -> None:
    for server in (new_server(), logged_in()):
        with pytest.raises(LocalProtocolError):
            server.send(Challenge(Secret(b"")))


def test_starttls_drops_what_came_in_the_clear() -> None:
    server = new_server(starttls=True)
    assert b"* STARTTLS\r\n" in server.banner()
    assert ask(server, b"S STARTTLS\r\nb LOGOUT\r\n") == Starttls(b"S")
    assert server.next_event() is PAUSED
    server.send(Ok(b"S", "Begin TLS negotiation now"))
    assert server.next_event() is NEED_DATA
    server.set_mechanisms(["PLAIN", "EXTERNAL"])
    assert server.banner().startswith(b'* AUTH "PLAIN" "EXTERNAL"\r\n* PARTIAL-UPDATE\r\n')
    assert ask(server, b"S2 STARTTLS\r\n") == bad(b'S2 NO "TLS is already active"')
    logged_in(server)
    assert ask(server, b"S3 STARTTLS\r\n") == bad(b'S3 BAD "Can\'t Starttls after authentication"')


def test_what_is_not_offered_is_not_recognized() -> None:
    server = new_server()
    assert ask(server, b"S STARTTLS\r\n") == bad(b'S BAD "Unrecognized command"')
    assert ask(server, b'C COMPRESS "DEFLATE"\r\n') == bad(b'C BAD "Unrecognized command"')


def test_compress_is_once_and_known_algorithms_only() -> None:
    server = new_server(starttls=True, compress=["DEFLATE"])
    assert b'* STARTTLS\r\n* COMPRESS "DEFLATE"\r\n* PARTIAL-UPDATE\r\n' in server.banner()
    assert ask(server, b'C COMPRESS "LZS"\r\n') == bad(b'C NO "Unknown COMPRESS algorithm: LZS"')
    assert ask(server, b'C COMPRESS "deflate"\r\nb NOOP\r\n') == Compress(b"C", "DEFLATE")
    assert server.next_event() is PAUSED
    assert server.buffered
    server.send(Ok(b"C", "DEFLATE active"))
    assert server.next_event() == bad(b'b BAD "Please login first"')
    assert ask(server, b'D COMPRESS "DEFLATE"\r\n') == bad(b'D BAD "DEFLATE active via COMPRESS"')
    assert ask(server, b"S STARTTLS\r\n") == bad(b'S NO "TLS can not begin after COMPRESS"')


def test_a_refused_update_leaves_the_state() -> None:
    server = logged_in()
    assert ask(server, b"U UPDATE\r\nb NOOP\r\n") == Update(b"U")
    assert server.next_event() is PAUSED
    server.send(No(b"U", "too many subscribers"))
    assert server.state is AUTHENTICATED
    assert server.next_event() == Noop(b"b")
    assert ask(server, b"U UPDATE\r\n") == Update(b"U")
    server.send(Ok(b"other", "not this one"))
    assert server.next_event() is PAUSED
    server.send(Ok(b"U", "streaming starts"))
    assert server.state is STREAMING
    assert ask(server, b"f FIND\r\n") == bad(b'f BAD "not legal when streaming"')


def test_bye_ends_the_connection() -> None:
    server = logged_in()
    server.receive_data(b"a NOOP\r\n")
    assert server.send(Bye(b"*", "too slow")) == b'* BYE "too slow"\r\n'
    assert server.state is LOGGED_OUT
    assert server.next_event() is PAUSED


def greeted(banner: bytes = BANNER) -> ClientConnection:
    client = ClientConnection()
    client.receive_data(banner)
    assert isinstance(client.next_event(), Banner)
    return client


def client_in(state: str) -> ClientConnection:
    client = greeted()
    client.send(Authenticate(b"A", "PLAIN", Secret(b"x")))
    client.receive_data(b'A OK "x"\r\n')
    assert client.next_event() == Ok(b"A", "x")
    if state == "streaming":
        client.send(Update(b"U"))
        client.receive_data(b'U OK "x"\r\n')
        assert client.next_event() == Ok(b"U", "x")
    return client


def test_a_client_keeps_to_the_states() -> None:
    client = ClientConnection()
    with pytest.raises(LocalProtocolError, match="greeted"):
        client.send(Logout(b"Q"))
    client = greeted()
    with pytest.raises(LocalProtocolError, match="login first"):
        client.send(Find(b"F", b"x"))
    with pytest.raises(LocalProtocolError, match="exchange"):
        client.send_response(None)
    client.send(Authenticate(b"A", "PLAIN"))
    with pytest.raises(LocalProtocolError, match="waits"):
        client.send(Logout(b"Q"))
    assert client.send_response(None) == b"*\r\n"
    client = client_in("streaming")
    with pytest.raises(LocalProtocolError, match="streaming"):
        client.send(List(b"L"))
    with pytest.raises(LocalProtocolError, match="in use"):
        client.send(Noop(b"U"))
    client.send(Noop(b"N"))
    with pytest.raises(LocalProtocolError, match="in use"):
        client.send(Noop(b"N"))


@pytest.mark.parametrize(
    "data",
    [
        b"220 smtp.example.org ESMTP\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\r\n",
        b"* OK IMAP4rev1 ready\r\n",
        b"* X\r\n" * 33,
        b"* X {3}\r\n",
        b"* X\0\r\n",
        b"x" * 70000,
    ],
)
def test_a_client_refuses_what_is_no_mupdate_server(data: bytes) -> None:
    client = ClientConnection()
    client.receive_data(data)
    with pytest.raises(RemoteProtocolError):
        while client.next_event() is not NEED_DATA:
            pass


@pytest.mark.parametrize("data", [b'* BYE "Server Unable"\r\n', b'* AUTH "X"\r\n* BYE "Server Unable"\r\n'])
def test_a_server_may_greet_with_bye(data: bytes) -> None:
    client = ClientConnection()
    client.receive_data(data)
    assert client.next_event() == Bye(b"*", "Server Unable")
    assert client.next_event() is PAUSED
    assert client.state is LOGGED_OUT


@pytest.mark.parametrize("data", [b'x OK "?"\r\n', b"x DELETE {1+}\r\na\r\n", b"AAAA\r\n", b"A\r\n", b"+ go ahead\r\n"])
def test_a_client_refuses_what_it_did_not_ask_for(data: bytes) -> None:
    client = client_in("authenticated")
    client.receive_data(data)
    with pytest.raises(RemoteProtocolError):
        client.next_event()


def test_a_client_takes_pushed_lines_between_answers() -> None:
    client = client_in("streaming")
    client.send(Noop(b"N"))
    client.receive_data(
        b'U MAILBOX {1+}\r\na {2+}\r\nb! {0+}\r\n\r\nN OK "Noop done"\r\n* BAD "Need command"\r\n* BYE "x"\r\n'
    )
    assert [client.next_event() for _ in range(5)] == [
        Mailbox(b"U", b"a", b"b!", b""),
        Ok(b"N", "Noop done"),
        Bad(b"*", "Need command"),
        Bye(b"*", "x"),
        PAUSED,
    ]


def test_a_client_reads_challenges_only_in_an_exchange() -> None:
    client = greeted()
    client.send(Authenticate(b"A", "SCRAM-SHA-1", Secret(b"x")))
    client.receive_data(b"eA==\r\n\r\n")
    assert client.next_event() == Challenge(Secret(b"x"))
    assert client.next_event() == Challenge(Secret(b""))
    assert client.send_response(Secret(b"")) == b"\r\n"
    client.receive_data(b"A NO Client canceled authentication\r\n")  # quirk QUOTED_TEXT
    assert client.next_event() == No(b"A", "Client canceled authentication")
    assert client.state is NOT_AUTHENTICATED
    client.receive_data(b"eA==\r\n")
    with pytest.raises(RemoteProtocolError):
        client.next_event()


def test_bytes_between_starttls_and_tls_are_an_attack() -> None:
    client = greeted()
    client.send(Starttls(b"S"))
    client.receive_data(b'S OK "go"\r\n')
    assert client.next_event() == Ok(b"S", "go")
    client.receive_data(BANNER)
    assert isinstance(client.next_event(), Banner)
    client = greeted()
    client.send(Starttls(b"S"))
    client.receive_data(b'S OK "go"\r\n' + BANNER)
    with pytest.raises(RemoteProtocolError, match="STARTTLS"):
        client.next_event()
