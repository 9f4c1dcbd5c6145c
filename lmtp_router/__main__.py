"""``python -m lmtp_router`` is ``lmtp-router``."""

from lmtp_router.cli import main

main()
