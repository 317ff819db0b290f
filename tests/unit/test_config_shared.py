"""Settings from outside of a policy that several commands share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resilient import CircuitBreaker, Command, ConfigError
from resilient.config import configure
from resilient.decorator import command
from resilient.policies.retry import Retry


@pytest.fixture(autouse=True)
def as_in_the_code() -> Iterator[None]:
    """No configuration leaks into the next test."""
    yield
    configure({})


def test_a_shared_policy_that_was_taken_away_comes_back() -> None:
    """As the object of the code, not as another one like it."""
    database = CircuitBreaker("shared database")

    @command("one", breaker=database)
    def one() -> None: ...

    @command("two", breaker=database)
    def two() -> None: ...

    configure({"commands": {"one": {"breaker": {"failure_rate": 0.2}}}})
    configure({"commands": {"one": {"breaker": False}}})
    configure({})
    assert Command.of(one).breaker is database
    assert Command.of(two).breaker is database
    assert database.settings.failure_rate == 0.5


def test_what_is_said_of_one_is_not_undone_by_the_other() -> None:
    """The file spoke of the second before, and speaks of the first now."""
    database = CircuitBreaker("shared database")

    @command("first", breaker=database)
    def first() -> None: ...

    @command("second", breaker=database)
    def second() -> None: ...

    configure({"commands": {"second": {"breaker": {"failure_rate": 0.4}}}})
    configure({"commands": {"first": {"breaker": {"failure_rate": 0.2}}}})
    assert database.settings.failure_rate == 0.2
    del first, second


def test_a_label_in_use_elsewhere_is_not_given_away() -> None:
    """A breaker with a name of its own keeps it when one of its commands lets it go."""
    database = CircuitBreaker("shared database")

    @command("lets go", breaker=database)
    def lets_go() -> None: ...

    Command.of(lets_go).configure(breaker=None)
    with pytest.warns(UserWarning, match="is labelled 'shared database#2'"):
        another = CircuitBreaker("shared database")
    assert (database.name, another.name) == ("shared database", "shared database#2")


def test_a_mistake_for_all_is_told_once() -> None:
    """Where it stands, not again for each command."""

    @command("a", retry=Retry())
    def a() -> None: ...

    @command("b", retry=Retry())
    def b() -> None: ...

    with pytest.raises(ConfigError) as caught:
        configure({"defaults": {"retry": {"attempts": 0}, "timeout": "x"}})
    assert str(caught.value).splitlines()[1:] == [
        "  defaults.retry.attempts: must be from 1 to 1,000,000, not 0",
        "  defaults.timeout: must be a number, not 'x'",
    ]
    del a, b


def test_a_name_without_quotes() -> None:
    """TOML makes tables inside tables of it."""
    with pytest.raises(ConfigError, match=r"""a name with dots stands in quotes: \[commands\."app\.weather"\]"""):
        configure({"commands": {"app": {"weather": {"timeout": 1.0}}}})
