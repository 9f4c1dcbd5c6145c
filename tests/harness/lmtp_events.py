"""What the server's end of a connection makes of a client's octets, however these are cut."""

from __future__ import annotations

from lmtp_router.protocol.server import Limits, ServerConnection
from lmtp_router.protocol.state import ServerState
from lmtp_router.protocol.types import PAUSED, BodyData, NeedData, ServerEvent


def drive(octets: bytes, size: int, limits: Limits | None = None, *, replace: bool = False) -> list[ServerEvent]:
    """Feed `octets` in pieces; accept every DATA and answer every message.  Chunks of a body are joined."""
    connection = ServerConnection(limits, replace_bare_newlines=replace)
    events: list[ServerEvent] = []
    for at in range(0, len(octets), size):
        connection.receive_data(octets[at : at + size])
        while True:
            event = connection.next_event()
            if event is PAUSED and connection.state in (ServerState.DATA, ServerState.CHUNK_ASKED):
                connection.accept_data()
            elif event is PAUSED and connection.state is ServerState.FINAL:
                connection.replied()
            elif isinstance(event, NeedData):
                break
            elif isinstance(event, BodyData) and events and isinstance(events[-1], BodyData):
                events[-1] = BodyData(events[-1].chunk + event.chunk)
            else:
                events.append(event)
    return events


def three_ways(octets: bytes, limits: Limits | None = None, *, replace: bool = False) -> list[ServerEvent]:
    whole = drive(octets, len(octets), limits, replace=replace)
    for size in (1, 2, 3, 5):
        assert drive(octets, size, limits, replace=replace) == whole
    assert drive(octets + b"QUI", len(octets) + 3, limits, replace=replace) == whole
    return whole
