"""Both modules, for tests that ask the same of both."""

from __future__ import annotations

from typing import Any

import pybreaker
import pytest

from resilient.compat import pybreaker as ours


@pytest.fixture(params=[pybreaker, ours], ids=["pybreaker", "resilient"])
def lib(request: pytest.FixtureRequest) -> Any:
    """The module under test."""
    return request.param
