from collections.abc import Sequence

from lmtp_router.protocol.types import Reply
from lmtp_router.recipient import Recipient

def recipient_lines(
    event: str, session: str, mail_from: bytes, done: Sequence[tuple[Recipient, Reply, int, float]]
) -> bytes: ...
