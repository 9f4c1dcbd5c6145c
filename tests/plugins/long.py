"""`make nightly` (CYREXT_LONG=1): property tests try fifty times as many examples, and nothing is timed out for it.

Rule: the long run is the same tests, only more of each; a test that says nothing of its examples is left as it is.
"""

from __future__ import annotations

import os

import hypothesis
import pytest

FACTOR = 50
ON = os.environ.get("CYREXT_LONG", "") not in ("", "0")
_SETTINGS = "_hypothesis_internal_use_settings"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not ON:
        return
    for item in items:
        item.add_marker(pytest.mark.timeout(0))
        function = getattr(item, "function", None)
        if function is not None and hypothesis.is_hypothesis_test(function):
            short: hypothesis.settings = getattr(function, _SETTINGS, hypothesis.settings())
            setattr(
                function, _SETTINGS, hypothesis.settings(short, max_examples=short.max_examples * FACTOR, deadline=None)
            )
