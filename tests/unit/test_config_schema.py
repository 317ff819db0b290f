"""The JSON schema for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resilient import config
from resilient.config_schema import text

FILE = Path(__file__).parents[2] / "docs" / "reference" / "configuration.schema.json"

GOOD: list[dict[str, Any]] = [
    {},
    {"defaults": {"timeout": 2.0, "on": ["OSError", "json:JSONDecodeError"]}},
    {"commands": {"app.weather": {"retry": {"attempts": 5, "wait": 0.5}, "breaker": False}}},
    {"commands": {"a": {"breaker": {"window": {"seconds": 30, "buckets": 6}, "open_duration": "m:f"}}}},
    {"commands": {"a": {"bulkhead": {"kind": "thread_pool_bulkhead", "threads": 3}}}},
    {"commands": {"a": {"bulkhead": {"kind": "concurrency_limiter", "algorithm": {"kind": "aimd"}}}}},
    {"services": {"producer": {"timeout": 1, "breaker": {"failure_rate": 0.3}}}},
]
BAD: list[dict[str, Any]] = [
    {"default": {}},
    {"defaults": {"timeot": 2.0}},
    {"commands": {"a": {"timeout": "1s"}}},
    {"commands": {"a": {"breaker": {"failurerate": 0.3}}}},
    {"commands": {"a": {"breaker": {"minimum_calls": 2.5}}}},
    {"services": {"producer": {"hedge": True}}},
]


def test_the_file_in_the_documents_is_that_of_the_code() -> None:
    """`python -m resilient.config_schema > docs/reference/configuration.schema.json` makes it anew."""
    assert FILE.read_text(encoding="utf-8") == text()


def test_every_argument_has_a_description_and_a_type() -> None:
    """Taken from signatures and docstrings: none is forgotten."""
    for kind, table in config.schema()["$defs"].items():
        for name, one in table["properties"].items():
            if name != "kind":
                assert one.get("description"), f"{kind}.{name}"
                assert one.get("type") or one.get("anyOf") or one.get("enum"), f"{kind}.{name}"


@pytest.mark.parametrize("good", GOOD, ids=str)
def test_it_accepts_what_is_right(good: dict[str, Any]) -> None:
    """By a validator of another maker."""
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(json.dumps(good)), config.schema())


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_it_refuses_what_is_wrong(bad: dict[str, Any]) -> None:
    """Words and kinds of values."""
    jsonschema = pytest.importorskip("jsonschema")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, config.schema())
