"""A certificate authority for one test: server and client certificates by the openssl command.

Rule: keys are made where they are used and never kept in the checkout.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple


class Certificate(NamedTuple):
    """PEM files of a certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """Issues certificates into `place`; `ca` is the file to believe."""

    def __init__(self, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self._place = place
        self._issuer = Certificate(place / "ca.pem", place / "ca.key")
        self._request("/CN=test authority", self._issuer, "-addext", "keyUsage=critical,keyCertSign,cRLSign")

    @property
    def ca(self) -> Path:
        return self._issuer.cert

    def issue(self, name: str, subject: str, alternative: str = "") -> Certificate:
        """Make a certificate for `subject` (``/CN=…``), with an alternative name such as ``email:a@b`` or ``DNS:c``."""
        made = Certificate(self._place / f"{name}.pem", self._place / f"{name}.key")
        extra = ["-addext", f"subjectAltName={alternative}"] if alternative else []
        issuer = ["-CA", str(self._issuer.cert), "-CAkey", str(self._issuer.key)]
        self._request(subject, made, *issuer, "-addext", "basicConstraints=critical,CA:FALSE", *extra)
        return made

    def _request(self, subject: str, made: Certificate, *extra: str) -> None:
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(made.key)]
        command = ["openssl", "req", "-x509", "-days", "2", "-subj", subject, *key, "-out", str(made.cert), *extra]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
