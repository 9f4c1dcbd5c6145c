"""A client and a server connection talk to each other in memory."""

from __future__ import annotations

from cyrusext.model import MailboxRecord, State
from cyrusext.mupdate.connection import ClientConnection, ServerConnection
from cyrusext.mupdate.state import AUTHENTICATED, LOGGED_OUT, STREAMING
from cyrusext.mupdate.types import (
    NEED_DATA,
    PAUSED,
    Activate,
    Authenticate,
    Banner,
    Challenge,
    Find,
    Logout,
    Mailbox,
    Noop,
    Ok,
    SaslResponse,
    Update,
)
from cyrusext.wire.sasl import Secret, build_plain


def greeted() -> tuple[ClientConnection, ServerConnection]:
    server = ServerConnection(hostname="node1", version="0.1.0", mechanisms=["PLAIN"])
    client = ClientConnection()
    client.receive_data(server.banner())
    assert client.next_event() == Banner(
        "node1", "cyrusext", "0.1.0", "(master)", mechanisms=("PLAIN",), partial_update=True
    )
    return client, server


def test_a_whole_session() -> None:
    client, server = greeted()
    plain = build_plain("murder", Secret(b"pw"), "murder")

    server.receive_data(client.send(Authenticate(b"A01", "PLAIN")))
    assert server.next_event() == Authenticate(b"A01", "PLAIN")
    client.receive_data(server.send(Challenge(Secret(b""))))
    assert client.next_event() == Challenge(Secret(b""))
    server.receive_data(client.send_response(plain))
    assert server.next_event() == SaslResponse(b"A01", plain)
    assert server.next_event() is PAUSED
    client.receive_data(server.send(Ok(b"A01", "Authenticated")))
    assert client.next_event() == Ok(b"A01", "Authenticated")
    assert client.state is server.state is AUTHENTICATED

    activate = Activate(b"X0", b"user.alice", b"be1!default", b"alice\tlrs\t")
    server.receive_data(client.send(activate) + client.send(Find(b"X1", b"user.alice")))
    assert [server.next_event() for _ in range(3)] == [activate, Find(b"X1", b"user.alice"), NEED_DATA]
    record = MailboxRecord(b"user.alice", State.ACTIVE, "be1", "default", b"alice\tlrs\t")
    client.receive_data(server.send(Ok(b"X0", "done")))
    client.receive_data(server.send_records(b"X1", [record]) + server.send(Ok(b"X1", "Search completed")))
    assert [client.next_event() for _ in range(4)] == [
        Ok(b"X0", "done"),
        Mailbox(b"X1", b"user.alice", b"be1!default", b"alice\tlrs\t"),
        Ok(b"X1", "Search completed"),
        NEED_DATA,
    ]

    server.receive_data(client.send(Update(b"U01")))
    assert [server.next_event(), server.next_event()] == [Update(b"U01"), PAUSED]
    client.receive_data(server.send_records(b"U01", [record]) + server.send(Ok(b"U01", "streaming starts")))
    assert client.next_event() == Mailbox(b"U01", b"user.alice", b"be1!default", b"alice\tlrs\t")
    assert client.next_event() == Ok(b"U01", "streaming starts")
    assert client.state is server.state is STREAMING
    server.receive_data(client.send(Noop(b"N0")) + client.send(Logout(b"Q01")))
    assert [server.next_event() for _ in range(3)] == [Noop(b"N0"), Logout(b"Q01"), PAUSED]
    client.receive_data(server.send(Ok(b"N0", "Noop done")) + server.send(Ok(b"Q01", "bye-bye")))
    assert [client.next_event() for _ in range(3)] == [Ok(b"N0", "Noop done"), Ok(b"Q01", "bye-bye"), PAUSED]
    assert client.state is server.state is LOGGED_OUT
