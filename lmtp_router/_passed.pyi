from collections.abc import Sequence

from lmtp_router.protocol._envelope import Envelope, Part
from lmtp_router.tally import Tally

class Taken(Part):
    """The part of an envelope that the backend `server` took, all of it."""

    server: str
    asked: float
    opened: float
    ended: float
    at: float
    def __init__(self, envelope: Envelope, server: str) -> None: ...

class Sums:
    """Counts what was passed on until the tally is asked for it."""

    def __init__(self, bounds: Sequence[float]) -> None: ...
    def count(self, parts: list[Taken], size: int) -> None: ...
    def settle(self, tally: Tally) -> None: ...

def passed_lines(event: str, session: str, mail_from: bytes, parts: list[Taken], size: int) -> bytes: ...
