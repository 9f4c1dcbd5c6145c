"""A MUPDATE master in memory, without I/O: the code under test (connection, ownership) over a dict.

Rule: it decides nothing itself.  It exists so that dialogue files and the client can be run where there is no node.
"""

from __future__ import annotations

from collections.abc import Iterator

from cyrusext.directory.modes import RULES, Audience, Mode
from cyrusext.directory.ownership import Action, Policy, check_change, decide
from cyrusext.errors import InvalidName, RemoteProtocolError
from cyrusext.model import MailboxRecord, State
from cyrusext.mupdate.connection import ServerConnection
from cyrusext.mupdate.leftover import Leftovers, Push
from cyrusext.mupdate.types import (
    Activate,
    Authenticate,
    Compress,
    Deactivate,
    Delete,
    Find,
    GoAhead,
    List,
    Logout,
    No,
    Noop,
    Ok,
    ProtocolViolation,
    Reserve,
    SaslCancelled,
    SaslResponse,
    ServerEvent,
    Signal,
    Update,
)
from cyrusext.mupdate.types import Challenge as SaslChallenge
from cyrusext.wire.deflate import Deflate
from cyrusext.wire.sasl import Secret, parse_plain
from tests.dialogues.runner import Deflater

Change = Reserve | Activate | Deactivate | Delete


class MemoryMaster:
    """Records, and the connections that hear of their changes."""

    AUDIENCE = Audience("127.0.0.1", frozenset({"me.lab"}))
    """Every client of a MemoryMaster."""

    def __init__(self, user: str = "murder", password: str = "murderpw", mode: Mode = Mode.STANDARD) -> None:
        self.rules = RULES[mode]
        self.user = user
        self.password = password
        self.records: dict[bytes, MailboxRecord] = {}
        self.subscribers: list[MemoryWire] = []
        self.leftovers = Leftovers(self.records.get)

    def connect(self) -> MemoryWire:
        return MemoryWire(self)

    def ordered(self) -> Iterator[MailboxRecord]:
        """All records in the order of Cyrus' own database: ``.`` below every other byte."""
        for name in sorted(self.records, key=lambda name: name.replace(b".", b"\x1f")):
            yield self.records[name]

    def change(self, command: Change, push: Push | None) -> tuple[bool, str]:
        parse = self.rules.location
        try:
            match command:
                case Delete(name=name):
                    change = check_change(Action.DELETE, name)
                case Activate(name=name, location=location, acl=acl):
                    change = check_change(Action.ACTIVATE, name, location, acl, parse=parse)
                case Reserve(name=name, location=location):
                    change = check_change(Action.RESERVE, name, location, parse=parse)
                case Deactivate(name=name, location=location):
                    change = check_change(Action.DEACTIVATE, name, location, parse=parse)
        except InvalidName as error:
            return False, error.public
        if push is not None:
            change = push.meant(change)
        before = self.records.get(name)
        decision = decide(change, before, Policy(table=self.rules.table), now_us=0, by="")
        if decision.record is not None:
            if decision.record.state is State.DELETED:
                del self.records[name]
            else:
                self.records[name] = decision.record
            for subscriber in self.subscribers:
                subscriber.push(before, decision.record)
        return decision.granted, decision.text


class MemoryWire:
    """One connection to a MemoryMaster, with the face of tests.dialogues.runner.Wire."""

    def __init__(self, master: MemoryMaster, chunk: int = 0) -> None:
        self._master = master
        self._chunk = chunk
        self._connection = ServerConnection(hostname="memory", version="0", mechanisms=["PLAIN"], compress=["DEFLATE"])
        self._out = bytearray(self._connection.banner())
        self._closed = False
        self._deflate: Deflate | None = None
        self._client: Deflater | None = None
        self._stream: Update | None = None
        self._asking = False
        self._push: Push | None = None

    def deflate(self) -> None:
        self._client = Deflater()
        assert self._deflate is not None, "the server does not compress"

    def send(self, data: bytes) -> None:
        data = self._client.deflate(data) if self._client else data
        size = self._chunk or len(data)
        for start in range(0, len(data), size):
            if self._closed:
                return
            self._connection.receive_data(self._inflated(data[start : start + size]))
            while not isinstance(event := self._connection.next_event(), Signal):
                answer = self._answer(event)
                if self._deflate is not None and self._client is not None:
                    answer = self._client.inflate(self._deflate.compress(answer))
                self._out += answer
                if self._closed:
                    return

    def _inflated(self, data: bytes) -> bytes:
        if self._deflate is None:
            return data
        self._deflate.feed(data)
        plain = b""
        while self._deflate.pending:
            plain += self._deflate.take(100)
        return plain

    def line(self, deadline: float) -> bytes | None:
        end = self._out.find(b"\n") + 1
        if not end:
            if self._closed:
                return None
            raise TimeoutError
        line = bytes(self._out[:end])
        del self._out[:end]
        return line

    def close(self) -> None:
        self._closed = True
        if self in self._master.subscribers:
            self._master.subscribers.remove(self)

    def push(self, before: MailboxRecord | None, record: MailboxRecord) -> None:
        assert self._stream is not None
        hosts = self._stream.hosts
        if not self._master.AUDIENCE.hears(record, self._master.rules):
            return
        if not hosts or record.server in hosts or (before is not None and before.server in hosts):
            self._out += self._connection.send_records(self._stream.tag, [record])

    def _answer(self, event: ServerEvent) -> bytes:
        connection = self._connection
        records = self._master.records
        match event:
            case GoAhead(reply=reply):
                return reply
            case ProtocolViolation(reply=reply, close=close):
                if close:
                    self.close()
                return reply
            case Authenticate(tag=tag, mechanism="PLAIN", initial=None):
                return connection.send(SaslChallenge(Secret(b"")))
            case Authenticate(tag=tag, mechanism="PLAIN", initial=Secret() as item) | SaslResponse(tag=tag, data=item):
                return connection.send(
                    Ok(tag, "Authenticated") if self._is_right(item) else No(tag, "undefined error!")
                )
            case Authenticate(tag=tag):
                return connection.send(No(tag, "undefined error!"))
            case Compress(tag=tag, algorithm=algorithm):
                self._deflate = Deflate()
                return connection.send(Ok(tag, f"{algorithm} active"))
            case SaslCancelled(tag=tag):
                return connection.send(No(tag, "Client canceled authentication"))
            case Reserve(tag=tag) | Activate(tag=tag) | Deactivate(tag=tag) | Delete(tag=tag):
                granted, text = self._master.change(event, self._push)
                return connection.send(Ok(tag, text) if granted else No(tag, text))
            case Find(tag=tag, name=name):
                silent = self._asking and not self._master.rules.push_finds
                found = [records[name]] if name in records and not silent and self._may_hear(records[name]) else []
                return connection.send_records(tag, found) + connection.send(Ok(tag, "Search completed"))
            case List(tag=tag, prefix=prefix):
                self._asking = b"!" in prefix
                if self._asking and self._master.rules.push_removes:
                    self._push = self._master.leftovers.push(prefix.partition(b"!")[0].decode())
                chosen = [one for one in self._master.ordered() if one.location.to_wire().startswith(prefix)]
                return connection.send_records(tag, chosen) + connection.send(Ok(tag, "list complete"))
            case Update() if not self._master.rules.streams_to_servers:
                self._closed = True
                return b""
            case Update(tag=tag, hosts=hosts):
                chosen = [one for one in self._master.ordered() if not hosts or one.server in hosts]
                lines = connection.send_records(tag, chosen) + connection.send(Ok(tag, "streaming starts"))
                self._stream = event
                self._master.subscribers.append(self)
                return lines
            case Noop(tag=tag):
                return connection.send(Ok(tag, "Noop done"))
            case Logout(tag=tag):
                reply = connection.send(Ok(tag, "bye-bye"))
                self.close()
                return reply
        raise AssertionError(f"no answer to {event}")

    def _may_hear(self, record: MailboxRecord) -> bool:
        if self._push is None:
            return True
        if self._push.keeps(record):
            self._push.withhold(record)  # nobody waits here
        return not self._push.keeps(record)

    def _is_right(self, item: Secret) -> bool:
        try:
            message = parse_plain(item)
        except RemoteProtocolError:
            return False
        return (message.authcid, message.password) == (self._master.user, Secret(self._master.password.encode()))
