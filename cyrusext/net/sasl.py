"""Logins: who may say that he is who, asked of libsasl2 or of a password file.

Rule: nothing here runs on the event loop.  libsasl2 may wait for saslauthd, a database or entropy, so each exchange
is worked on in the threads of `login_pool`.  What was proven before (`proven`) needs neither.
"""

from __future__ import annotations

import hmac
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from cffi import FFI

from cyrusext.errors import ConfigError, CyrusExtError
from cyrusext.net._sasl import ffi, lib
from cyrusext.net.proven import Proven
from cyrusext.net.stamp import Stamp

MAX_PASSWORD_FILE = 1 << 20
"""Longest password file in bytes."""


class LoginRefused(CyrusExtError):
    """The login is not good: wrong password, unknown user, a mechanism that is not offered, a broken exchange."""

    code = "login-refused"


class LoginUnavailable(CyrusExtError):
    """Nobody can say now whether the login is good (saslauthd away, too many logins at once)."""

    code = "login-unavailable"


class Step(NamedTuple):
    """What one step of an exchange gave.

    ``done``: the login is good and ``username`` is who it is (the authorisation identity).  Otherwise ``challenge`` is
    to be sent.
    """

    done: bool
    challenge: bytes
    username: str


class Proved(NamedTuple):
    """What TLS has proved before the login: whom the client's certificate names ("": nobody), and the cipher's bits."""

    identity: str = ""
    bits: int = 0


NOTHING_PROVED = Proved()


class Exchange(Protocol):
    """One login in progress; its methods block and are called by one thread at a time."""

    def start(self, mechanism: str, initial: bytes | None) -> Step: ...

    def step(self, response: bytes) -> Step: ...

    def close(self) -> None: ...


class _Library:
    """libsasl2 of this process: its options can be set only once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = False
        self._options: dict[str, str] | None = None

    def ensure(self, options: Mapping[str, str]) -> None:
        """Initialise libsasl2 with `options`; raises ConfigError if it is already running with others."""
        with self._lock:
            if self._options is not None:
                if self._options != dict(options):
                    raise ConfigError("libsasl2 is already running in this process with other options")
                return
            for name, value in options.items():
                if lib.cyx_sasl_option(name.encode(), value.encode()):
                    raise ConfigError("too many options for libsasl2")
            self._start()
            self._options = dict(options)

    def mechanisms(self) -> frozenset[str]:
        """Return the names of the mechanisms that are installed; raises ConfigError where libsasl2 does not start."""
        with self._lock:
            self._start()
            names = lib.sasl_global_listmech()
        found: set[str] = set()
        while names != ffi.NULL and names[len(found)] != ffi.NULL:
            found.add(_text(names[len(found)]).upper())
        return frozenset(found)

    def _start(self) -> None:
        if self._running:
            return
        result = lib.cyx_sasl_init(b"cyrusext")
        if result != lib.SASL_OK:
            raise ConfigError(f"libsasl2 does not start: {_error_text(result)}")
        self._running = True


_library = _Library()


def installed_mechanisms() -> frozenset[str]:
    """Return the SASL mechanisms that the installed libsasl2 has; raises ConfigError where it does not start."""
    return _library.mechanisms()


def _error_text(result: int) -> str:
    return _text(lib.sasl_errstring(result, ffi.NULL, ffi.NULL))


def _text(string: FFI.CData) -> str:
    raw = ffi.string(string)
    assert isinstance(raw, bytes)  # a char pointer's string; FFI.string() also serves wide characters
    return raw.decode("utf-8", "surrogateescape")


class SaslExchange:
    """One login through libsasl2 (RFC 4422); owns one ``sasl_conn_t``."""

    def __init__(self, service: str, hostname: str, realm: str, proved: Proved = NOTHING_PROVED) -> None:
        holder = ffi.new("sasl_conn_t **")
        identity = proved.identity.encode() or ffi.NULL
        result = lib.cyx_sasl_new(
            service.encode(), hostname.encode(), realm.encode() or ffi.NULL, identity, proved.bits, holder
        )
        if result != lib.SASL_OK:
            raise LoginUnavailable(f"libsasl2: {_error_text(result)}")
        self._holder = holder
        self._realm = realm

    def start(self, mechanism: str, initial: bytes | None) -> Step:
        """Begin with `mechanism`; `initial` is the initial response or None.

        Raises LoginRefused or LoginUnavailable.
        """
        out, length = ffi.new("const char **"), ffi.new("unsigned *")
        data = ffi.NULL if initial is None else ffi.from_buffer(initial or b"\0")
        size = 0 if initial is None else len(initial)
        return self._result(
            lib.sasl_server_start(self._holder[0], mechanism.encode("ascii", "replace"), data, size, out, length),
            out,
            length,
        )

    def step(self, response: bytes) -> Step:
        """Go on with the client's `response`; raises LoginRefused or LoginUnavailable."""
        out, length = ffi.new("const char **"), ffi.new("unsigned *")
        data = ffi.from_buffer(response or b"\0")
        return self._result(lib.sasl_server_step(self._holder[0], data, len(response), out, length), out, length)

    def _result(self, result: int, out: FFI.CData, length: FFI.CData) -> Step:
        challenge = bytes(ffi.buffer(out[0], length[0])) if out[0] != ffi.NULL else b""
        if result == lib.SASL_CONTINUE:
            return Step(False, challenge, "")
        if result == lib.SASL_OK:
            username = ffi.new("const char **")
            result = lib.cyx_sasl_username(self._holder[0], username)
            if result == lib.SASL_OK and username[0] != ffi.NULL:
                # libsasl2 appends the realm to a user of a realm that was named; `admins` lists bare names
                return Step(True, challenge, _text(username[0]).removesuffix(f"@{self._realm}"))
        detail = _text(lib.sasl_errdetail(self._holder[0]))
        if result in (lib.SASL_UNAVAIL, lib.SASL_TRYAGAIN):
            raise LoginUnavailable(f"libsasl2: {detail}", public="authentication unavailable")
        raise LoginRefused(f"libsasl2: {detail}", public="authentication failed")

    def close(self) -> None:
        """Give the ``sasl_conn_t`` back; harmless when done already."""
        if self._holder[0] != ffi.NULL:
            lib.sasl_dispose(self._holder)


class SaslLogins:
    """Logins checked by libsasl2.

    `options` are libsasl2's (``pwcheck_method``, ``sasldb_path``, …); the first instance in a process decides them.
    `passwords` is the file that libsasl2 asks; None where what it asks is no file (saslauthd).
    """

    def __init__(
        self, *, service: str, hostname: str, realm: str, options: Mapping[str, str], passwords: Path | None = None
    ) -> None:
        _library.ensure(options)
        self.proven = Proven(passwords) if passwords is not None else None
        self._service, self._hostname, self._realm = service, hostname, realm

    def exchange(self, proved: Proved = NOTHING_PROVED) -> Exchange:
        return SaslExchange(self._service, self._hostname, self._realm, proved)


class PasswordFile:
    """Users and passwords in a text file, lines ``user:password``; `#` begins a comment line.

    The file is read again when it has changed, and refused when others may read it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: Stamp | None = None
        self._passwords: dict[str, bytes] = {}
        self.load()

    def load(self) -> None:
        """Read the file if it has changed; raises ConfigError when it can not be read or others may read it."""
        with self._lock:
            try:
                with self._path.open("rb") as file:
                    status = os.fstat(file.fileno())
                    if status.st_mode & 0o007:
                        raise ConfigError(f"{self._path}: others may read or change this password file; chmod o= it")
                    stamp = Stamp.of(status)
                    if stamp == self._stamp:
                        return
                    believed = stamp.at_rest()
                    text = file.read(MAX_PASSWORD_FILE + 1)
            except OSError as error:
                raise ConfigError(f"{self._path}: {error.strerror}") from error
            if len(text) > MAX_PASSWORD_FILE:
                raise ConfigError(f"{self._path}: longer than {MAX_PASSWORD_FILE} bytes")
            passwords = {}
            for number, line in enumerate(text.split(b"\n"), 1):
                entry = line.rstrip(b"\r")
                if not entry or entry.startswith(b"#"):
                    continue
                user, colon, password = entry.partition(b":")
                if not (user and colon and password):
                    raise ConfigError(f"{self._path}:{number}: expected user:password")
                passwords[user.decode("utf-8", "surrogateescape")] = password
            self._passwords, self._stamp = passwords, stamp if believed else None

    def verify(self, user: str, password: bytes) -> bool:
        """Return whether `password` is `user`'s, in a time that does not tell how much of it was right."""
        self.load()
        known = self._passwords.get(user)
        equal = hmac.compare_digest(password, known if known is not None else b"\0" + password)
        return equal and known is not None


class FileExchange:
    """One PLAIN login (RFC 4616) against a `PasswordFile`."""

    def __init__(self, passwords: PasswordFile) -> None:
        self._passwords = passwords

    def start(self, mechanism: str, initial: bytes | None) -> Step:
        if mechanism.upper() != "PLAIN":
            raise LoginRefused("a password file serves the PLAIN mechanism only", public="authentication failed")
        return Step(False, b"", "") if initial is None else self.step(initial)

    def step(self, response: bytes) -> Step:
        parts = response.split(b"\0")
        if len(parts) != 3 or not parts[1]:
            raise LoginRefused("not a PLAIN message", public="authentication failed")
        authorise, user, password = parts
        name = user.decode("utf-8", "surrogateescape")
        try:
            good = self._passwords.verify(name, password)
        except ConfigError as error:
            raise LoginUnavailable(str(error), public="authentication unavailable") from error
        if not good:
            raise LoginRefused(f"wrong user or password for {name!r}", public="authentication failed")
        if authorise and authorise != user:
            raise LoginRefused(f"{name!r} may not act for another user", public="authentication failed")
        return Step(True, b"", name)

    def close(self) -> None:
        """Nothing to give back."""


class FileLogins:
    """Logins checked against a password file (`pwcheck = "file"`)."""

    def __init__(self, path: Path) -> None:
        self._passwords = PasswordFile(path)
        self.proven = Proven(path)

    def exchange(self, _proved: Proved = NOTHING_PROVED) -> Exchange:
        return FileExchange(self._passwords)


class Logins(Protocol):
    """Gives a new exchange for each login."""

    @property
    def proven(self) -> Proven | None:
        """The good PLAIN logins that need no exchange; None where nobody can tell when they cease to be good."""
        ...

    def exchange(self, proved: Proved = NOTHING_PROVED, /) -> Exchange: ...
