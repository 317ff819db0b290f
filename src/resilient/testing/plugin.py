"""Fixtures for pytest: `pytest_plugins = ["resilient.testing.plugin"]` in conftest.py.

Or `-p resilient.testing.plugin`, on the command line or in `addopts`.

Example:
    >>> from resilient.testing import plugin
    >>> sorted(name for name in dir(plugin) if name.startswith("resilient_"))
    ['resilient_clock', 'resilient_disabled', 'resilient_reset']
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resilient.testing.clock import VirtualClock
from resilient.testing.switches import disabled, reset, use_clock

_INI = "resilient_reset"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The setting in pytest.ini, pyproject.toml or tox.ini."""
    parser.addini(_INI, "reset every command and policy of resilient before and after each test", "bool", default=False)


@pytest.fixture
def resilient_reset() -> Iterator[None]:
    """Every command and policy as new, before the test and after it.

    `resilient_reset = true` in pytest's settings does it for each test.
    """
    reset()
    yield
    reset()


@pytest.fixture(autouse=True)
def _resilient_reset_each(request: pytest.FixtureRequest) -> None:
    if request.config.getini(_INI):
        request.getfixturevalue("resilient_reset")


@pytest.fixture
def resilient_clock() -> Iterator[VirtualClock]:
    """A `VirtualClock` on which every command and policy runs during the test; who sleeps moves it on."""
    with use_clock(VirtualClock(auto=True)) as clock:
        yield clock


@pytest.fixture
def resilient_disabled() -> Iterator[None]:
    """Every policy is transparent during the test."""
    with disabled():
        yield
