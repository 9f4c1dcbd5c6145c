"""A daemon's own watchdog: it ends the process that hangs, whoever watches from outside.

Rule: nothing that hangs can keep it from acting.  A blocked event loop is noticed by a timer of the C library's making,
which needs neither the loop nor the interpreter; both ends leave every thread's stack on standard error, so that it can
be told what hung.  What was acknowledged is durable, so ending at once loses nothing.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Callable

from cyrusext.errors import CyrusExtError
from cyrusext.runtime import logging

log = logging.get()

LOOP_S = 30.0
"""How long the event loop may stand still, in seconds; systemd's WatchdogSec acts sooner where there is one."""
FEED_S = 2.0


class Watchdog:
    """Ends the process when `feed` is not called for `loop_s` seconds, or when `hung` gives a reason."""

    def __init__(self, hung: Callable[[], str], *, loop_s: float = LOOP_S) -> None:
        self._hung, self._loop_s = hung, loop_s
        self.feed_s = min(FEED_S, loop_s / 4)
        """How often it has to be fed, in seconds."""

    def start(self) -> None:
        """Begin; SIGABRT, with which systemd ends what hangs, shows the stacks too."""
        faulthandler.enable(sys.stderr, all_threads=True)
        self.feed()

    def feed(self) -> None:
        """Say that the loop turns."""
        if reason := self._hung():
            log.critical("watchdog.hung", reason=reason)
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
            os._exit(CyrusExtError.exit_code)
        faulthandler.dump_traceback_later(self._loop_s, exit=True, file=sys.stderr)

    def stop(self) -> None:
        """End watching."""
        faulthandler.cancel_dump_traceback_later()
