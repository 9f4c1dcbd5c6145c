"""Which records a stock slave may lose when it merges a full UPDATE into its own list.

Rule: pure; and the specification of what Walk.odd_names selects in compiled code.  The stock slave walks two lists in
mailboxes.db order but compares with strcmp; the two orders disagree only where a byte below ``.`` stands, or a ``^``
(which is the dot that it means in mailboxes.db), so the names that have one are repeated after the merge.  Beside a
``^`` the merge loses what strcmp puts before it: where there is one, names with a byte between are repeated too.
"""

from __future__ import annotations

import re

_ODD = re.compile(rb"[\x01-\x2d^]").search
_DOT_TO_CARET = re.compile(rb"[\x2f-\x5d]").search


class Repeats:
    """Learns the domains of a list, told in Cyrus' order, and then says which names are to be repeated.

    A domain's own ``!`` is below ``.`` too, but can only mislead where one domain is a dotted prefix of another
    (``example.org`` and ``example.org.uk``); without that restriction every name of a domain would be repeated.
    """

    def __init__(self) -> None:
        self._last = b""
        self._prefixes: list[bytes] = []
        self._entangled: set[bytes] = set()

    @property
    def entangled(self) -> frozenset[bytes]:
        """The domains of which every name is repeated."""
        return frozenset(self._entangled)

    def learn(self, name: bytes) -> None:
        """Take the next name of the list; one of each domain is enough."""
        domain, mark, _ = name.partition(b"!")
        if not mark or domain == self._last:
            return
        self._last = domain
        # Cyrus' order puts a domain right before the domains that it is a dotted prefix of.
        while self._prefixes and not domain.startswith(self._prefixes[-1] + b"."):
            self._prefixes.pop()
        if self._prefixes:
            self._entangled.update(self._prefixes, (domain,))
        self._prefixes.append(domain)

    def wants_beside_dots(self, name: bytes) -> bool:
        """Say whether `name` is to be repeated where any name has a literal dot."""
        domain, mark, local = name.partition(b"!")
        return _DOT_TO_CARET(local if mark else domain) is not None

    def wants(self, name: bytes) -> bool:
        """Say whether `name` is to be repeated, whatever others there are."""
        domain, mark, local = name.partition(b"!")
        if not mark:
            return _ODD(name) is not None
        return domain in self._entangled or _ODD(domain) is not None or _ODD(local) is not None
