"""The error tree of cyrusext: each class says whose fault it is and how a command ends on it.

Rule: an exception carries two texts.  ``str(error)`` is for the operator and the log; ``public`` is what may be told
to a peer, and holds no path, configuration or identifier of ours.  Exit codes follow sysexits(3) where it has one.
"""

from __future__ import annotations

from typing import ClassVar


class CyrusExtError(Exception):
    """Base of every error that cyrusext raises on purpose."""

    code: ClassVar[str] = "error"
    """Stable name, used in logs and tests."""
    exit_code: ClassVar[int] = 75
    """Exit status of a command that ends on this error (DESIGN 10)."""

    def __init__(self, message: str, *, public: str = "") -> None:
        super().__init__(message)
        self.public = public or message


class ProtocolError(CyrusExtError):
    """Base of protocol errors."""

    code = "protocol"


class LocalProtocolError(ProtocolError):
    """Our own caller asked for something that the protocol does not allow."""

    code = "protocol-local"


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol does not allow.

    ``fatal`` is true when message boundaries can no longer be trusted and the connection has to be closed.
    """

    code = "protocol-remote"

    def __init__(self, message: str, *, public: str = "", fatal: bool = False) -> None:
        super().__init__(message, public=public)
        self.fatal = fatal


class InvalidName(CyrusExtError):
    """A mailbox name, location or ACL that no record can hold (model.check_name)."""

    code = "invalid-name"
    exit_code = 2


class LookupUnavailable(CyrusExtError):
    """The lookup can not answer now: callers turn this into a temporary failure, never into "no" (DESIGN rule 1)."""

    code = "lookup-unavailable"
    exit_code = 69


class IndexUnavailable(LookupUnavailable):
    """There is no index at this place, or it can not be opened."""

    code = "index-unavailable"


class IndexCorrupt(LookupUnavailable):
    """The index is damaged: a checksum, an offset or a length is wrong."""

    code = "index-corrupt"


class IndexVersion(LookupUnavailable):
    """The index has a format that this version of cyrusext does not read."""

    code = "index-version"


class StoreError(CyrusExtError):
    """The store refused or failed a transaction; nothing of it was applied."""

    code = "store"


class StoreConflict(StoreError):
    """A record was not as the writer expected (its ``seq`` had moved on)."""

    code = "store-conflict"


class StoreCorrupt(StoreError):
    """A record or the store's own structure failed its check."""

    code = "store-corrupt"


class StoreFull(StoreError):
    """No space: the disk, the quota or the reserved map is full."""

    code = "store-full"


class StoreVersion(StoreError):
    """The store was written by a version whose format this one does not open."""

    code = "store-version"
    exit_code = 78


class DirectoryError(CyrusExtError):
    """The directory did not take or give a record."""

    code = "directory"


class DirectoryUnavailable(DirectoryError):
    """The directory can not be reached or has no majority; the outcome of a write in flight is unknown."""

    code = "directory-unavailable"
    exit_code = 69


class RefillIncomplete(CyrusExtError):
    """Servers are missing that have to push their lists before a refill can end."""

    code = "refill-incomplete"
    exit_code = 1


class NodeUnavailable(CyrusExtError):
    """The node's control socket does not answer."""

    code = "node-unavailable"
    exit_code = 69


class NodeFollows(CyrusExtError):
    """This node follows another one, which alone decides on changes."""

    code = "node-follows"
    exit_code = 69


class MupdateUnavailable(CyrusExtError):
    """An MUPDATE server does not answer in time, or the connection to it is gone; a write's outcome is unknown."""

    code = "mupdate-unavailable"
    exit_code = 69


class MupdateRefused(CyrusExtError):
    """An MUPDATE server answered NO or BAD; the text is the server's."""

    code = "mupdate-refused"


class ConfigError(CyrusExtError):
    """The configuration is wrong: names file, key and what was expected."""

    code = "config"
    exit_code = 78


class InputError(CyrusExtError):
    """A file that was given to a command can not be read as what it should be; nothing of it was applied."""

    code = "input"
    exit_code = 1


class DeliveryError(CyrusExtError):
    """A delivery did not succeed."""

    code = "delivery"


class DeliveryTemporary(DeliveryError):
    """The sender should try again (4xx)."""

    code = "delivery-temporary"


class DeliveryPermanent(DeliveryError):
    """Trying again will not help (5xx)."""

    code = "delivery-permanent"
