"""TLS of a server: its certificate, which clients' certificates it believes, and whom they name.

Rule: files are read at start and at a reload; a reload that fails leaves what was.  TLS 1.2 is the least, and a client
need not have a certificate.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cyrusext.errors import ConfigError


class Secured(NamedTuple):
    """A connection under TLS: its transport, whom the client's certificate names ("": nobody), and the cipher."""

    transport: asyncio.Transport
    identity: str
    cipher: str
    bits: int


class ServerTls:
    """The TLS settings of a server; `context` is for the next handshake."""

    def __init__(self, cert: str, key: str = "", client_ca: str = "") -> None:
        """Load the PEM files; `key` may be empty where `cert` holds it too.

        Raises ConfigError, naming the file, where one can not be used.
        """
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self.context = self._load()

    def reload(self) -> None:
        """Load the files again.  Raises ConfigError and changes nothing where one can not be used."""
        self.context = self._load()

    async def begin(
        self, transport: asyncio.Transport, protocol: asyncio.Protocol, handshake_s: float, shutdown_s: float
    ) -> Secured:
        """Begin TLS on `transport` as its server, within `handshake_s` seconds.

        Raises ConnectionAbortedError, with the reason, where it does not begin; `transport` is closed then.
        """
        try:
            secure = await asyncio.get_running_loop().start_tls(
                transport,
                protocol,
                self.context,
                server_side=True,
                ssl_handshake_timeout=handshake_s,
                ssl_shutdown_timeout=shutdown_s,
            )
        except OSError as error:  # SSLError is an OSError
            transport.abort()
            raise ConnectionAbortedError(_reason(error)) from error
        except BaseException:
            transport.abort()
            raise
        if secure is None:
            raise ConnectionAbortedError("the client left")
        name, _, bits = secure.get_extra_info("cipher") or ("", "", 0)
        return Secured(secure, identity_of(secure.get_extra_info("peercert")), name, bits)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        files = f"{self._cert} and {self._key}" if self._key else self._cert
        for file in filter(None, (self._cert, self._key, self._client_ca)):
            _readable(file)
        try:
            # An encrypted key has nobody to ask for its password: the empty one does not fit.
            context.load_cert_chain(self._cert, self._key or None, password=lambda: "")
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise ConfigError(f"{files}: no certificate with its key in PEM: {_reason(error)}") from error
        if self._client_ca:
            try:
                context.load_verify_locations(self._client_ca)
            except OSError as error:
                raise ConfigError(f"{self._client_ca}: no certificates in PEM: {_reason(error)}") from error
            context.verify_mode = ssl.CERT_OPTIONAL
        return context


def _readable(file: str) -> None:
    try:
        with Path(file).open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{file} can not be read: {error.strerror}") from error


def _reason(error: Exception) -> str:
    return (isinstance(error, ssl.SSLError) and error.reason) or str(error)


def identity_of(certificate: Mapping[str, Any] | None) -> str:
    """Return whom a verified certificate (as `ssl.SSLSocket.getpeercert` gives it) names, "" for nobody.

    It is the subject's common name; where there is none, the one e-mail address of the alternative names.  A
    certificate with two common names, or a name with a control character, names nobody.
    """
    if not certificate:
        return ""
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    if not names:
        names = [value for key, value in certificate.get("subjectAltName", ()) if key == "email"]
    if len(names) != 1 or not names[0].isprintable():
        return ""
    return str(names[0])
