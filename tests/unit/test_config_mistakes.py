"""Every mistake is told at once, with the path of its key, and nothing changes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from resilient import CircuitBreaker, Command, ConfigError
from resilient.config import configure, service_settings
from resilient.decorator import command
from resilient.policies.chaos import Chaos


@pytest.fixture(autouse=True)
def as_in_the_code() -> Iterator[None]:
    """No configuration leaks into the next test."""
    yield
    configure({})


def told(settings: Any) -> list[str]:
    """The lines of the error."""
    with pytest.raises(ConfigError) as caught:
        configure(settings)
    first, *lines = str(caught.value).split("\n  ")
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    assert first == f"configure(): {count}, nothing has changed"
    assert caught.value.path == lines[0].partition(": ")[0]
    return lines


def test_all_mistakes_of_a_file_are_one_error() -> None:
    """In order, each with its path as TOML writes it."""

    @command("app.weather", timeout=1.0)
    def fn() -> None: ...

    settings = {
        "defaults": {"timeot": 1},
        "commands": {
            "app.weather": {
                "timeout": -1,
                "on": "builtins:OSErr",
                "breaker": {"failure_rate": 30, "minimum_calls": 0, "windw": {}, "window": {"seconds": -1}},
                "bulkhead": {"limit": 0},
            },
            "later": {"cache": {"max_entries": 0}},
        },
        "servces": {},
    }
    assert told(settings) == [
        "servces: there is no such table; did you mean 'services'?",
        "defaults.timeot: there is no setting 'timeot'; did you mean 'timeout'?",
        'commands."app.weather".timeout: must be more than 0 seconds, not -1',
        "commands.\"app.weather\".on: there is no 'OSErr' in builtins; did you mean 'OSError'?",
        "commands.\"app.weather\".breaker.windw: CircuitBreaker has no setting 'windw'; did you mean 'window'?",
        'commands."app.weather".breaker.window.seconds: must be more than 0 seconds, not -1',
        'commands."app.weather".breaker.minimum_calls: must be at least 1, not 0',
        (
            'commands."app.weather".breaker.failure_rate: must be a ratio more than 0 and at most 1, not 30;'
            " for 30 % write 0.3"
        ),
        'commands."app.weather".bulkhead.limit: must be at least 1, not 0',
        "commands.later.cache.max_entries: must be at least 1, not 0",
    ]
    assert Command.of(fn).settings.timeout == 1.0


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"group": 3}, "group: must be text"),
        ({"timeout": True}, "timeout: must be a number, not True"),
        ({"fallback": "m:f"}, "fallback: there is no setting 'fallback': fallback is a part of what the function is"),
        ({"retry": 3}, "retry: must be a table, true or false, not 3"),
        ({"retry": {"attempts": 0}}, "retry.attempts: must be from 1 to 1,000,000, not 0"),
        ({"retry": {"budget": {"ratio": -1}}}, "retry.budget.ratio: "),
        ({"retry": {"budget": {"rato": 1}}}, "retry.budget.rato: RetryBudget has no setting 'rato'; did you mean"),
        ({"breaker": {"name": "x"}}, "breaker.name: CircuitBreaker has no setting 'name' in a file: only code"),
        (
            {"chaos": {"enabled": True}},
            "chaos.enabled: Chaos has no setting 'enabled' in a file: only code can give it",
        ),
        ({"rate_limiter": True}, "rate_limiter.limit: is needed: RateLimiter(limit=...)"),
        ({"bulkhead": {"kind": "pool"}}, "bulkhead.kind: must be one of bulkhead, thread_pool_bulkhead, concurrency"),
        ({"bulkhead": {"algorithm": {"kind": "x"}}}, "bulkhead.algorithm.kind: must be one of gradient2, vegas, aimd"),
        ({"hedge": True}, "hedge: a Hedge starts a second call"),
        ({"on": "nowhere.at.all:Error"}, "on: 'nowhere.at.all:Error' can not be imported"),
        ({"on": "OSErrr"}, "on: must be 'module:name' or a builtin, not 'OSErrr'; did you mean 'OSError'?"),
        ({"on": "KeyboardInterrupt"}, "on: must hold exception types"),
        ({"on": 3}, "on: must be an exception type, a tuple of them or a predicate, not 3"),
        ({"on_result": "os:sep"}, "on_result: must be a function of the result"),
        ({"breaker": {"slow_call_rate": 0.5}}, "breaker.slow_call_rate: says nothing without"),
        ({"breaker": {"window": {"calls": 3}}}, "breaker.minimum_calls: "),
        ({"retry": True, "hedge": True}, "hedge: retry and hedge together"),
    ],
    ids=str,
)
def test_each_mistake_is_a_sentence_with_its_path(settings: dict[str, Any], line: str) -> None:
    """Whatever checks it: the words, the constructor, or the function that it is for."""

    @command("strict")
    def fn() -> None: ...

    before = Command.of(fn).pipeline
    lines = told({"commands": {"strict": settings}})
    assert any(one.startswith(f"commands.strict.{line}") for one in lines), lines
    assert Command.of(fn).pipeline is before


@pytest.mark.parametrize("room", ["defaults", "commands", "services"])
def test_what_is_no_table_is_told(room: str) -> None:
    """A value where a table is expected."""
    assert told({room: 3}) == [f"{room}: must be a table, not 3"]


def test_services_have_their_own_words() -> None:
    """What a transport has no use for is a mistake."""
    lines = told({"services": {"producer": {"hedge": True, "breaker": {"failure_rate": 2}, "rate_limiter": {}}}})
    assert [line.partition(": ")[0] for line in lines] == [
        "services.producer.hedge",
        "services.producer.breaker.failure_rate",
        "services.producer.rate_limiter.limit",
    ]


def test_a_failing_reload_changes_nothing_anywhere() -> None:
    """Not the other command, not the services, not what a later command gets."""
    configure({"commands": {"one": {"timeout": 1.0}}, "services": {"producer": {"timeout": 1.0}}})

    @command("one")
    def one() -> None: ...

    told(
        {
            "commands": {"one": {"timeout": 2.0}, "two": {"timeout": 2.0, "breaker": {"minimum_calls": "many"}}},
            "services": {"producer": {"timeout": 2.0}},
        }
    )
    assert Command.of(one).settings.timeout == 1.0
    assert service_settings("producer")["timeout"] == 1.0

    @command("two")
    def two() -> None: ...

    assert Command.of(two).settings.timeout is None


def test_what_only_the_code_can_complete_is_no_mistake() -> None:
    """A key that says something together with the code's policy, for a command that is made later."""
    slow = {"breaker": {"slow_call_rate": 0.5}, "chaos": {"rate": 0.5}, "rate_limiter": {"burst": 3}}
    configure({"commands": {"completed": slow}})

    with pytest.raises(ConfigError, match=r"commands\.completed\.rate_limiter\.limit: is needed"):
        command("completed")(print)
    configure({"commands": {"completed": {"breaker": slow["breaker"], "chaos": slow["chaos"]}}})

    @command("completed", breaker=CircuitBreaker(slow_call_duration=1.0), chaos=Chaos(latency=1.0))
    def fn() -> None: ...

    found = Command.of(fn).breaker
    assert found is not None
    assert found.settings.slow_call_rate == 0.5


def test_the_error_crosses_processes() -> None:
    """With its text and its path."""
    with pytest.raises(ConfigError) as caught:
        configure({"defaults": {"timeout": 0}})
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.path) == (str(caught.value), "defaults.timeout")
