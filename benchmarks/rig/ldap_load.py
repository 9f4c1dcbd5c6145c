"""A load of register writes on real slapds, and of plain ones: so many in flight, one thread, one connection to each.

Rule: what is counted was acknowledged, by a majority or by the one slapd; an answer that should not come ends the
run.  The machine of cyrusext.directory.register decides; only the wires are here.
"""

from __future__ import annotations

import contextlib
import select
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import _ldap
import ldap

from cyrusext.directory import schema
from cyrusext.directory.ballots import Ballot, Ballots
from cyrusext.directory.controls import ASSERTION, POST_READ, post_read_request, read_entry
from cyrusext.directory.ownership import Decision
from cyrusext.directory.register import Attempt, Copy, Owned, Reply, Request, Result, Step, Value
from cyrusext.model import MailboxRecord, State
from tests.harness.slapd import BASE, SECRET, WRITER, Slapd

_READ = (POST_READ, True, post_read_request(schema.ATTRIBUTES))
REPLIES = {
    "ASSERTION_FAILED": Reply.OUTDONE,
    "NO_SUCH_OBJECT": Reply.ABSENT,
    "ALREADY_EXISTS": Reply.EXISTS,
}


class WriteRefused(AssertionError):
    """A write that had to be granted was not; the text says what came."""


class Report(NamedTuple):
    """Of one load: acknowledged writes a second, milliseconds until they were, the share of a CPU of the proposer."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu: float


class Wire:
    """One connection to one slapd, with any number of requests in flight."""

    def __init__(self, slapd: Slapd, dn: str = WRITER) -> None:
        self.connection = ldap.initialize(slapd.uri)
        self.connection.set_option(ldap.OPT_NETWORK_TIMEOUT, 10.0)
        self.connection.simple_bind_s(dn, SECRET)
        self.low = self.connection._l
        self.waiting: dict[int, Callable[[Reply, Copy | None], None]] = {}

    def send(self, operation: schema.Operation, done: Callable[[Reply, Copy | None], None]) -> None:
        if operation.attributes is not None:
            number = self.low.add_ext(operation.dn, operation.attributes, None, None)
        else:
            controls = [_READ] if operation.post_read else []
            if operation.assertion:
                controls.append((ASSERTION, True, _ldap.encode_assertion_control(operation.assertion)))
            number = self.low.modify_ext(operation.dn, operation.changes, controls or None, None)
        self.waiting[number] = done

    def take(self) -> None:
        """Give out every answer that is there."""
        while self.waiting:
            copy: Copy | None = None
            try:
                answer = self.low.result4(ldap.RES_ANY, 1, 0, 1, 0, 0)
            except ldap.LDAPError as error:
                told = error.args[0]
                number, reply = told["msgid"], REPLIES.get(type(error).__name__, Reply.LOST)
                if reply is Reply.LOST:
                    raise WriteRefused(str(told)) from error
            else:
                if answer[0] is None:
                    return
                number, controls, reply = answer[2], answer[3], Reply.TAKEN
                for oid, _, value in controls or ():
                    if oid == POST_READ:
                        copy = schema.parse(read_entry(value))[1]
            self.waiting.pop(number)(reply, copy)


class Load:
    """Keeps a number of writes in flight until the time or the names are over."""

    def __init__(self, slapds: Sequence[Slapd]) -> None:
        self.wires = [Wire(slapd) for slapd in slapds]
        self.ballots = Ballots(1)
        self.owned: dict[bytes, Owned] = {}
        self._poll = select.poll()
        for wire in self.wires:
            self._poll.register(wire.connection.fileno(), select.POLLIN)
        self._ops = 0

    def close(self) -> None:
        for wire in self.wires:
            wire.connection.unbind_s()

    def run(
        self,
        names: Iterator[bytes],
        in_flight: int,
        write: Callable[[bytes, Callable[[], None]], None],
        seconds: float | None = None,
    ) -> Report:
        """Begin a `write` of the next name whenever one is done; the last ones are waited for, and counted."""
        began, used = time.perf_counter(), time.process_time()
        waits: list[float] = []
        open_ = 0

        def begin() -> None:
            nonlocal open_
            if seconds is not None and time.perf_counter() - began > seconds:
                return
            name = next(names, None)
            if name is None:
                return
            open_ += 1
            start = time.perf_counter()

            def done() -> None:
                nonlocal open_
                open_ -= 1
                waits.append(time.perf_counter() - start)
                begin()

            write(name, done)

        for _ in range(in_flight):
            begin()
        while open_:
            if not self._poll.poll(20_000):
                raise WriteRefused(f"{open_} writes without an answer for 20 s")
            self._take()
        while any(wire.waiting for wire in self.wires):  # the slapds that the majority did not need
            self._poll.poll(20_000)
            self._take()
        took = time.perf_counter() - began
        if len(waits) < 2:
            raise WriteRefused("no writes were acknowledged")
        cuts = statistics.quantiles(waits, n=100, method="inclusive")
        return Report(len(waits) / took, cuts[49] * 1e3, cuts[98] * 1e3, (time.process_time() - used) / took)

    def _take(self) -> None:
        for wire in self.wires:
            wire.take()

    def register_write(
        self, name: bytes, done: Callable[[], None], *, sticky: bool = False, absent: bool = False
    ) -> None:
        """A write of this process's, in one round (`sticky`) or two."""
        self._ops += 1
        owned = self.owned.pop(name, None)
        if sticky and owned is None:
            raise WriteRefused(f"{name!r} was not written before")
        attempt = Attempt(
            len(self.wires), self.ballots, changed(name), b"%032d" % self._ops, owned if sticky else None, absent=absent
        )

        def send(requests: list[Request]) -> None:
            for request in requests:
                self.wires[request.voter].send(schema.operation(request, name, BASE), answered(request))

        def answered(request: Request) -> Callable[[Reply, Copy | None], None]:
            def take(reply: Reply, copy: Copy | None) -> None:
                ended = attempt.outcome is not None
                if request.step is Step.PREPARE and reply is Reply.TAKEN and copy is None:
                    copy = Copy(request.ballot)
                send(attempt.answered(request, reply, copy))
                if attempt.outcome is not None and not ended:
                    if attempt.outcome.result is not Result.DECIDED or attempt.outcome.owned is None:
                        raise WriteRefused(str(attempt.outcome))
                    self.owned[name] = attempt.outcome.owned
                    done()

            return take

        send(attempt.start())

    def plain_write(self, name: bytes, done: Callable[[], None], *, add: bool = False) -> None:
        """What one slapd does by itself: an add of the same entry, or a modify of the same attributes."""
        self._ops += 1
        record = changed(name)(None).record
        assert record is not None
        value = Value(record._replace(seq=self._ops), b"%032d" % self._ops)
        request = Request(0, 0, Step.ACCEPT, Ballot(self._ops, 1), value, create=add)
        operation = schema.operation(request, name, BASE)._replace(assertion="")

        def taken(reply: Reply, _: Copy | None) -> None:
            if reply is not Reply.TAKEN:
                raise WriteRefused(f"{name!r}: {reply}")
            done()

        self.wires[0].send(operation, taken)


def changed(name: bytes) -> Callable[[MailboxRecord | None], Decision]:
    """The command: ACTIVATE at its server, with an ACL as long as real ones are."""
    acl = name[5:] + b"\tlrswipkxtecda\tanyone\tp\tgroup:staff\tlrs\t"
    record = MailboxRecord(
        name,
        State.ACTIVE,
        "be17.example.org",
        "default",
        acl,
        changed_at=time.time_ns() // 1000,
        changed_by="murder@10.0.0.17",
    )
    return lambda _: Decision(True, "done", record)


@contextlib.contextmanager
def load_on(slapds: Sequence[Slapd]) -> Iterator[Load]:
    load = Load(slapds)
    try:
        yield load
    finally:
        load.close()
