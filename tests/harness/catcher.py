"""The log of one sandbox, and its last guard: a process of its own.

Rule: it always reads.  syslog(3) blocks on a full queue, so a catcher inside the test process would stop the servers
whenever a test does.  And it outlives the test process: when the pipe on standard input ends, it kills the sandboxes
that it was told of and not told to forget, so that nothing stays behind a killed test run.

    python3 -m tests.harness.catcher STATE
        reads STATE/devlog, appends to STATE/log: time, priority, message;  standard input: +PID guards the sandbox of
        that process, -PID forgets it;  standard output: a line for each of these, once it is done
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path

from tests.harness.namespace import Namespace


def main(state: str) -> None:
    os.chdir(state)  # the path of a socket is short, that of a state directory may not be
    Path("devlog").unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    listener.bind("devlog")
    Path("devlog").chmod(0o666)
    log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    guarded: dict[str, Namespace] = {}
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)
    os.write(1, b"ready\n")
    while True:
        for key, _ in selector.select():
            if key.fd != 0:
                os.write(log, _line(listener.recv(65536)))
                continue
            told = os.read(0, 65536)
            if not told:
                for namespace in guarded.values():
                    namespace.reap()
                return
            for word in told.decode().split():
                _obey(word, guarded)
                os.write(1, b"done\n")


def _obey(word: str, guarded: dict[str, Namespace]) -> None:
    pid = word[1:]
    if word[0] == "+":
        guarded[pid] = Namespace(int(pid))
    elif pid in guarded:
        guarded.pop(pid).close()


def _line(datagram: bytes) -> bytes:
    """``<22>Nov 23 18:45:01 cyrus/imapd[12]: text`` with our own clock, which has milliseconds."""
    now = time.time()
    priority, _, message = datagram.partition(b">")
    clock = time.strftime("%H:%M:%S", time.localtime(now)).encode()
    text = message[16:].rstrip(b"\n\0").replace(b"\n", b"\\n")
    return b"%s.%03d %s %s\n" % (clock, now % 1 * 1000, priority[1:], text)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(sys.argv[1])
