"""What every test shares: virtual time, and names that do not leak from one test into the next."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest

from resilient import names
from resilient.testing import VirtualClock
from tests.drive import Drive, drive_async, drive_sync

hypothesis.settings.register_profile("resilient", deadline=None)  # how long an example takes is the machine's business
hypothesis.settings.load_profile("resilient")


@pytest.fixture
def clock() -> VirtualClock:
    """Time that moves when the test says so."""
    return VirtualClock()


@pytest.fixture(autouse=True)
def fresh_names() -> Iterator[None]:
    """Policies of a finished test may still be alive; their names are free all the same."""
    yield
    names.forget()


@pytest.fixture(params=[drive_sync, drive_async], ids=["sync", "async"])
def drive(request: pytest.FixtureRequest) -> Drive:
    """`drive(policy, fn, *args)`: the call in one colour; the test runs once per colour."""
    found: Drive = request.param
    return found
