"""What a bulkhead is made of and what it says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from resilient import ConfigError, Pipeline, Timeout
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.retry import Retry


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1.5}, "limit"),
        ({"limit": True}, "limit"),
        ({"max_wait": -1.0}, "max_wait"),
        ({"max_wait": float("inf")}, "max_wait"),
        ({"max_wait": None}, "max_wait"),
        ({"max_queue": -1, "max_wait": 1.0}, "max_queue"),
        ({"max_queue": 5}, "max_queue"),
        ({"name": ""}, "name"),
    ],
)
def test_bad_arguments_are_refused_at_construction(arguments: dict[str, Any], path: str) -> None:
    """The error names the argument, the value and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        Bulkhead(**arguments)
    assert caught.value.path == path


def test_it_explains_itself() -> None:
    """The sentence, the repr, the wait on top, and what bites."""
    waiting = Bulkhead(3, name="db", max_wait=0.5, max_queue=4)
    assert repr(waiting) == "Bulkhead(3, name='db', max_wait=0.5, max_queue=4)"
    assert waiting.describe() == "Bulkhead 'db': 3 calls at once, others wait up to 0.5 s, 4 at most"
    assert Bulkhead(3).describe() == "Bulkhead 'bulkhead': 3 calls at once, others are refused"
    found = Pipeline(waiting, Timeout(1.0, thread=True)).explain()
    assert found.worst_case_wait == 1.5
    assert any("while Retry sleeps" in text for text in Pipeline(waiting, Retry()).explain().warnings)
