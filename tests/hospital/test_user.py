"""The user of the tour and of the tests."""

from __future__ import annotations

import pytest

from examples.hospital.user import User
from examples.support.serving import address_of, listen


@pytest.mark.timeout(30)
def test_who_is_interrupted_does_not_wait_for_users_that_insist() -> None:
    """While nobody answers, a block that ends by an exception ends at once, with every user in it."""
    with listen() as listener:
        address = address_of(listener)
    user = User(f"http://{address}")
    with pytest.raises(KeyboardInterrupt), user.insisting(range(1, 61)) as many:
        raise KeyboardInterrupt
    assert all(one.done() for one in many)
    user.close()
