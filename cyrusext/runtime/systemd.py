"""What systemd wants to hear from a service: ready, stopping, still alive (sd_notify(3)).

Rule: without systemd nothing happens and nothing fails; a daemon never depends on being heard.
"""

from __future__ import annotations

import os
import socket
import time


def notify(state: str) -> bool:
    """Send `state` (``READY=1``, ``STOPPING=1``, ``STATUS=…``, ``WATCHDOG=1``) and say whether it was sent."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = "\0" + path[1:] if path[0] == "@" else path  # "@" is the abstract namespace
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto(state.encode(), address)
    except OSError:
        return False
    return True


def notify_reloading() -> bool:
    """Say that the configuration is being read anew; ``READY=1`` ends it (systemd pairs the two by the time given)."""
    return notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_period_s() -> float | None:
    """Return how often ``WATCHDOG=1`` is to be sent: half of what systemd allows, None when it does not watch us."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        limit_us = int(os.environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return limit_us / 2_000_000 if limit_us > 0 else None
