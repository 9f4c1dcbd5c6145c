"""Root is given up for good."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys

import pytest

from cyrusext.errors import ConfigError
from cyrusext.runtime import privileges


def test_unknown_names_are_configuration_errors() -> None:
    with pytest.raises(ConfigError, match="user 'no-such-user'"):
        privileges.drop("no-such-user")
    with pytest.raises(ConfigError, match="group 'no-such-group'"):
        privileges.drop("", "no-such-group")


def test_nothing_named_changes_nothing() -> None:
    before = (os.getresuid(), os.getresgid(), os.getgroups())
    privileges.drop("", "")
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == before


def test_after_the_drop_there_is_no_way_back() -> None:
    program = (
        "import os\nfrom cyrusext.runtime import privileges\n"
        "if os.geteuid() == 0:\n    privileges.drop('nobody')\n"
        "print(os.getresuid(), os.getgroups())\n"
        "try:\n    os.setuid(0)\nexcept PermissionError:\n    print('refused')\n"
        "try:\n    privileges.drop('root')\nexcept Exception as e:\n    print(type(e).__name__)\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[1:] == ["refused", "ConfigError"]
    if os.geteuid() == 0:
        uid = pwd.getpwnam("nobody").pw_uid
        assert out.startswith(f"({uid}, {uid}, {uid}) ")
        assert " [0" not in out


def test_a_group_that_gets_files_is_kept_though_the_user_is_no_member() -> None:
    script = (
        "import os, grp\nfrom cyrusext.runtime import privileges\n"
        "if os.geteuid() == 0:\n"
        "    privileges.drop('nobody', keep_group='games')\n"
        "    print(os.geteuid() != 0 and grp.getgrnam('games').gr_gid in os.getgroups())\n"
        "else:\n    print(True)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "True\n"
