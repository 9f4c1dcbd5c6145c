"""Types of the libsasl2 binding (built by _sasl_build.py)."""

from typing import Any

from cffi import FFI

ffi: FFI
lib: Any
