"""A child keeps only the descriptors that it is given, and closes nobody else's later."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from cyrusext.runtime.descriptors import blank_others


def test_what_is_not_kept_leads_nowhere() -> None:
    kept, other = socket.socketpair()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            blank_others({0, 1, 2, kept.fileno()})
            kept.send(b"here")
            null = Path(os.devnull).stat()
            leads_nowhere = all(os.fstat(fd).st_rdev == null.st_rdev for fd in (reader, writer, other.fileno()))
            other.close()  # closes /dev/null, and nothing that was opened since
            code = 0 if leads_nowhere else 2
        finally:
            os._exit(code)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"", "the child holds no end of the pipe"
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert other.recv(10) == b"here"
    finally:
        os.close(reader)
        kept.close()
        other.close()
