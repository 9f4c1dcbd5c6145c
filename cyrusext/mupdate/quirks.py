"""Where MUPDATE as spoken by Cyrus differs from RFC 3656, by name.

Rule: no silent leniency.  Each deviation that the code keeps or refuses has a member here, whose value says what is
done and why; the code that does it and the test that proves it name the member.
"""

from __future__ import annotations

import enum


class Quirk(enum.Enum):
    """A deviation from RFC 3656, or from the stock master where the RFC leaves the choice."""

    # What Cyrus does and we do too.
    QUOTED_MECHANISMS = "mechanisms in the AUTH banner line are quoted strings, not atoms"
    LOGOUT_OK = "LOGOUT is answered by OK, not by BYE"
    BAD_BEFORE_LOGIN = "a command before the login is answered by BAD, not by NO"
    LONG_TAGS = "tags may be longer than 14 octets and hold any printable byte that is no string or literal mark"
    STRINGS_ONLY = "an argument must be a string: an atom is BAD, and so are two blanks"
    BARE_LF = "a line may end in LF alone"
    ANY_ESCAPE = "in a quoted string a backslash quotes any byte"
    EIGHT_BIT = "quoted strings and literals may hold 8-bit bytes; they are opaque"
    NUL_REFUSED = "a NUL in a literal is BAD"
    LITERAL_PLUS = "all names, locations and ACLs leave as non-synchronising literals"
    DEACTIVATE = "DEACTIVATE exists (missing in the ABNF)"
    COMPRESS = "COMPRESS exists (missing in the RFC): raw deflate, before or after the login"
    PARTIAL_UPDATE = "UPDATE may name up to 30 hosts"
    UNDEFINED_ERROR = 'a failed login is NO "undefined error!", whatever the reason'
    EMPTY_CHALLENGE = "an empty SASL item is an empty line"

    # What Cyrus does and we do otherwise, towards what the RFC asks or what its own clients need.
    QUOTED_TEXT = (
        "reply text is always quoted; the stock master leaves it bare after STARTTLS, COMPRESS and a cancelled "
        "AUTHENTICATE, which its own client can not read"
    )
    LITERAL_LIMIT = "a literal over the limit is BAD; the stock master exits"
    RESERVE_KEEPS_ACTIVE = (
        "RESERVE by the owner of an active mailbox leaves it active; stock demotes it and loses the ACL"
    )
    RESERVE_SAME_SERVER = "ownership compares servers; stock compares the whole location"
    ACTIVATE_OWNED = "ACTIVATE of a mailbox that is active elsewhere is NO; stock overwrites"
    DEACTIVATE_OWNED = "DEACTIVATE by another server is NO; stock overwrites the location"
    DEACTIVATE_AGAIN = "DEACTIVATE of a reserved mailbox by its server is OK; stock crashes"
    DEACTIVATE_ABSENT = "DEACTIVATE of an unknown mailbox is NO; stock crashes"
    DELETE_ABSENT = 'DELETE of an unknown mailbox is OK "already deleted" (RFC: NO); stock crashes'
    EMPTY_NAME = "an empty mailbox name is NO; stock stores it and its backends then refuse to start"
    NAME_LENGTH = "a name over 490 bytes is NO; stock takes some and dies of others"
    LOCATION_FORM = "a location without server and ! is NO; stock stores any string"
    PUSH_RESERVED = (
        "after LIST of one server FIND finds no reservation of another, and ACTIVATE of it is NO; stock answers, and "
        "ctl_mboxlist -m then removes what may be the only copy"
    )
    ACL_OPAQUE = "an ACL comes back byte for byte; stock loses one that has no TABs"
    UNIFIED_PUSH = (
        "mode unified: ACTIVATE of an unknown mailbox is NO; in stock a push claims what its server remembers of others"
    )
    UNIFIED_ECHO = (
        "mode unified: a stream tells no server of its own mailboxes, and nobody of reservations; stock does, and the "
        "server's slave overwrites its own entry with one that can not be opened"
    )
    REPLICATED_STREAM = (
        "mode replicated: UPDATE from a server of [backends] ends its connection, for its slave would take a NO for an "
        "empty list; stock streams, and the slave of Cyrus since 2.5 takes the partition for a server"
    )
    REPLICATED_PUSH = (
        "mode replicated: after LIST of one server FIND finds nothing; stock answers, and ctl_mboxlist -m then removes "
        "all mailboxes of its server"
    )
    PUSH_AT_ONCE = "changes are pushed at once; stock waits up to 5 s or for a NOOP"
