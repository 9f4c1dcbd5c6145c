"""The plug-ins of the test suite; each file there fixes one thing."""

from __future__ import annotations

pytest_plugins = ["tests.plugins.jobs", "tests.plugins.no_skips"]
