"""Giving up root for good, once everything that needs it is bound.

Rule: after `drop` returns the process can not become root again; when that can not be had, it raises and nothing runs.
"""

from __future__ import annotations

import grp
import os
import pwd

from cyrusext.errors import ConfigError


def resolve(user: str, group: str) -> tuple[int, int]:
    """Return the uid and gid meant by `user` and `group`; an empty group is the user's own, an empty user is ours.

    Raises ConfigError for a name that this machine does not know.
    """
    uid, gid = os.geteuid(), os.getegid()
    if user:
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise ConfigError(f"user {user!r} is unknown on this machine") from None
        uid, gid = entry.pw_uid, entry.pw_gid
    if group:
        try:
            gid = grp.getgrnam(group).gr_gid
        except KeyError:
            raise ConfigError(f"group {group!r} is unknown on this machine") from None
    return uid, gid


def drop(user: str, group: str = "", *, keep_group: str = "") -> None:
    """Become `user` (and `group`, else the user's own group) with the user's supplementary groups; empty = stay.

    `keep_group` is one more group to be in, so that files can be given to it; it is not added to what we are already.
    Raises ConfigError for unknown names, and when we are neither root nor already that user.
    """
    if not user and not group:
        return
    uid, gid = resolve(user, group)
    if os.geteuid() != 0:
        if (os.geteuid(), os.getegid()) != (uid, gid):
            raise ConfigError(f"can not become user {user!r}, group {group!r}: not started as root")
        return
    kept = [resolve("", keep_group)[1]] if keep_group else []
    groups = os.getgrouplist(user, gid) if user else [gid]
    os.setgroups([*groups, *(extra for extra in kept if extra not in groups)])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if uid != 0:
        try:
            os.setuid(0)
        except PermissionError:
            return
        raise ConfigError(f"still root after becoming user {user!r}")
