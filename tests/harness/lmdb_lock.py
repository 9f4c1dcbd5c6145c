"""Somebody who takes the writer's lock of a store and keeps it, as a broken reader could (docs/security.md).

Rule: it is a process of its own that uses liblmdb alone; the lock is free again when it ends, whatever ends it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Self

_PROGRAM = """
import ctypes, sys
lmdb = ctypes.CDLL("liblmdb.so.0")
env, txn = ctypes.c_void_p(), ctypes.c_void_p()
lmdb.mdb_env_open.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint)
lmdb.mdb_txn_begin.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p)
assert not lmdb.mdb_env_create(ctypes.byref(env))
assert not lmdb.mdb_env_open(env, sys.argv[1].encode(), 0, 0o600)
assert not lmdb.mdb_txn_begin(env, None, 0, ctypes.byref(txn))
print("held", flush=True)
sys.stdin.read()
"""


class HeldLock:
    """Holds the lock of the store in `state_dir` from `with` on, until `release`."""

    def __init__(self, state_dir: Path) -> None:
        command = [sys.executable, "-c", _PROGRAM, str(state_dir / "store")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"held\n":
            self.release()
            raise AssertionError("the lock could not be taken")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let it go; harmless when it is free already."""
        self._process.kill()
        self._process.communicate(timeout=10)
