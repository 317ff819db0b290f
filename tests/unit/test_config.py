"""Settings from outside: what they apply to, and when."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient import CircuitBreaker, Command, ConfigError, CountWindow, State, TimeWindow
from resilient.config import configure, service_settings
from resilient.decorator import command
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.cache import Cache
from resilient.policies.concurrency_limiter import ConcurrencyLimiter
from resilient.policies.limit_algorithms import AIMD, Vegas
from resilient.policies.rate_limiter import RateLimiter
from resilient.policies.retry import Retry
from resilient.testing import VirtualClock


@pytest.fixture(autouse=True)
def as_in_the_code() -> Iterator[None]:
    """No configuration leaks into the next test."""
    yield
    configure({})


def settings_of(fn: Any, policy: str) -> Any:
    return getattr(Command.of(fn).settings, policy).settings


def of_command(name: str, **settings: Any) -> dict[str, Any]:
    return {"commands": {name: settings}}


class TestWhatItChanges:
    """The code says the settings, the file changes what it speaks of."""

    def test_a_table_changes_the_policy_of_the_code(self) -> None:
        """What the table does not name stays as the code has it; the policy stays the same object."""
        breaker = CircuitBreaker(minimum_calls=7, failure_rate=0.9)

        @command("app.weather", breaker=breaker, timeout=1.0)
        def fn() -> None: ...

        configure(of_command("app.weather", timeout=2.5, breaker={"failure_rate": 0.3, "window": {"seconds": 30}}))
        assert Command.of(fn).settings.timeout == 2.5
        assert Command.of(fn).breaker is breaker
        assert (breaker.settings.minimum_calls, breaker.settings.failure_rate) == (7, 0.3)
        assert breaker.settings.window == TimeWindow(30)

    def test_a_table_adds_a_policy_and_false_takes_one_away(self) -> None:
        """True is a policy with the library's defaults."""

        @command("layers")
        def fn() -> None: ...

        configure(of_command("layers", breaker=False, retry={"attempts": 5}, bulkhead=True))
        kinds = [policy.kind for policy in Command.of(fn).pipeline.policies]
        assert kinds == ["retry", "bulkhead"]
        assert settings_of(fn, "retry").attempts == 5
        assert settings_of(fn, "bulkhead").limit == 10

    def test_the_kind_chooses_among_bulkheads(self) -> None:
        """Another kind than the code's begins with that kind's defaults."""

        @command("kinds", bulkhead=Bulkhead(3))
        def fn() -> None: ...

        configure(of_command("kinds", bulkhead={"kind": "concurrency_limiter", "algorithm": {"kind": "aimd"}}))
        assert isinstance(Command.of(fn).settings.bulkhead, ConcurrencyLimiter)
        assert isinstance(settings_of(fn, "bulkhead").algorithm, AIMD)
        configure(of_command("kinds", bulkhead={"kind": "concurrency_limiter", "algorithm": {"alpha": 4}}))
        assert isinstance(settings_of(fn, "bulkhead").algorithm, Vegas)
        configure(of_command("kinds", bulkhead={"kind": "thread_pool_bulkhead", "threads": 2}))
        assert settings_of(fn, "bulkhead").threads == 2

    def test_functions_and_exception_types_are_named(self) -> None:
        """`module:name`, a builtin by its name alone, or a list of them."""

        @command("named")
        def fn(error: Exception) -> None:
            raise error

        configure(of_command("named", on=["OSError", "decimal:DecimalException"], ignore="json:JSONDecodeError"))
        for error in (OSError(), KeyError()):
            with pytest.raises(type(error)):
                fn(error)
        found = Command.of(fn).breaker
        assert found is not None
        assert (found.snapshot().failures, found.snapshot().calls) == (1, 2)
        configure(of_command("named", on="resilient:is_transient", breaker={"open_for": "resilient:retry_after"}))
        assert callable(Command.of(fn).settings.on)

    def test_what_follows_from_other_settings_goes_on_following_them(self) -> None:
        """The burst that nobody gave is the new limit's; a cache keeps the function for its keys."""

        def key(place: str) -> str:
            return place.lower()

        @command("following", rate_limiter=RateLimiter(10), cache=Cache(60.0, key=key))
        def fn(place: str) -> str:
            return place

        configure(of_command("following", rate_limiter={"limit": 200}, cache={"seconds": 5.0}))
        assert settings_of(fn, "rate_limiter").burst == 200
        assert (fn("Rome"), fn("ROME")) == ("Rome", "Rome")

    def test_defaults_hold_where_the_code_says_nothing(self) -> None:
        """They change policies and add none; a command's own table wins."""

        @command("silent", retry=Retry())
        def silent() -> None: ...

        @command("saying", timeout=9.0, breaker=CircuitBreaker(failure_rate=0.9, minimum_calls=3))
        def saying() -> None: ...

        @command("without", breaker=None)
        def without() -> None: ...

        configure(
            {
                "defaults": {
                    "timeout": 2.0,
                    "breaker": {"failure_rate": 0.4, "open_duration": 9.0},
                    "retry": {"attempts": 4},
                    "rate_limiter": {"max_wait": 1.0},
                },
                "commands": {"silent": {"breaker": {"open_duration": 1.0}}},
            }
        )
        assert Command.of(silent).settings.timeout == 2.0
        assert settings_of(silent, "retry").attempts == 4
        breaker = settings_of(silent, "breaker")
        assert (breaker.failure_rate, breaker.open_duration) == (0.4, 1.0)
        assert Command.of(saying).settings.timeout == 9.0
        breaker = settings_of(saying, "breaker")
        assert (breaker.failure_rate, breaker.minimum_calls, breaker.open_duration) == (0.9, 3, 9.0)
        assert [policy.kind for policy in Command.of(without).pipeline.policies] == ["timeout"]

    def test_services_are_kept_for_transports(self) -> None:
        """Numbers, and functions that make a policy by the name of its key."""
        configure({"services": {"producer": {"timeout": 2.0, "retry": {"attempts": 2}, "breaker": False}}})
        found = service_settings("producer")
        assert found["timeout"] == 2.0
        assert found["breaker"] is None
        retry = found["retry"](name="producer")
        assert isinstance(retry, Retry)
        assert (retry.settings.attempts, retry.name) == (2, "producer")
        assert dict(service_settings("other")) == {}


class TestWhen:
    """Now, later, and again."""

    def test_a_command_that_is_made_later_gets_its_settings(self) -> None:
        """Also one that takes the name of one that is gone."""
        configure(of_command("later", timeout=3.0, breaker={"window": {"calls": 50}}))
        for _ in range(2):

            @command("later")
            def fn() -> None: ...

            assert Command.of(fn).settings.timeout == 3.0
            assert settings_of(fn, "breaker").window == CountWindow(50)
            del fn

    def test_a_command_made_later_that_can_not_have_them_is_refused(self) -> None:
        """With the path of the setting; and it is not listed."""
        configure(of_command("unfit", hedge=True))
        with pytest.raises(ConfigError, match=r"commands\.unfit\.hedge: .*has to be async") as caught:

            @command("unfit")
            def fn() -> None: ...

        assert caught.value.path == "commands.unfit.hedge"

    def test_what_the_file_does_not_say_any_more_is_as_in_the_code_again(self) -> None:
        """Settings and layers; the policies stay the same objects, and what code changed meanwhile is kept."""

        @command("back", timeout=1.0, retry=Retry(attempts=2), on=OSError)
        def fn() -> None: ...

        before = Command.of(fn).settings
        configure(of_command("back", timeout=9.0, on="ValueError", retry={"attempts": 8}, bulkhead={"limit": 2}))
        Command.of(fn).configure(group="kept")
        assert settings_of(fn, "retry").attempts == 8
        configure({})
        after = Command.of(fn).settings
        assert (after.timeout, after.on, after.bulkhead, after.group) == (1.0, OSError, None, "kept")
        assert after.retry is before.retry
        assert settings_of(fn, "retry").attempts == 2

    def test_a_reload_keeps_counters_states_and_calls_under_way(self, clock: VirtualClock) -> None:
        """Rule 27, from a file."""
        entered, leave = threading.Event(), threading.Event()

        @command("busy", breaker=CircuitBreaker(clock=clock), bulkhead=Bulkhead(1))
        def fn() -> str:
            entered.set()
            leave.wait(10.0)
            return "done"

        answers: list[str] = []
        caller = threading.Thread(target=lambda: answers.append(fn()))
        caller.start()
        assert entered.wait(10.0)
        found = Command.of(fn).breaker
        assert found is not None
        found.open(60.0)
        configure(of_command("busy", timeout=60.0, breaker={"failure_rate": 0.9}, bulkhead={"limit": 5}))
        leave.set()
        caller.join()
        assert answers == ["done"]
        assert found is Command.of(fn).breaker
        assert found.state is State.OPEN
        assert found.snapshot().retry_after == 60.0
        assert Command.of(fn).snapshot().successes == 1

    def test_a_budget_goes_on_when_its_table_is_the_same(self) -> None:
        """A reload for another reason does not give a failing service a fresh budget."""

        @command("budgeted", retry=Retry())
        def fn() -> None: ...

        retry = Command.of(fn).settings.retry
        assert isinstance(retry, Retry)
        configure(of_command("budgeted", retry={"budget": {"ratio": 0.5}}))
        budget = retry.budget
        configure(of_command("budgeted", timeout=5.0, retry={"budget": {"ratio": 0.5}}))
        assert retry.budget is budget
        configure(of_command("budgeted", retry={"budget": {"ratio": 0.6}}))
        assert retry.budget is not budget

    def test_settings_reach_async_commands(self) -> None:
        """The same chain is swapped."""

        @command("async")
        async def fn() -> None:
            await asyncio.Event().wait()

        configure(of_command("async", timeout=0.01))
        with pytest.raises(TimeoutError):
            asyncio.run(fn())


class TestSources:
    """A path, a mapping, or what the environment names."""

    TEXT = (
        '[commands."app.files"]\ntimeout = 4.0\n[commands."app.files".breaker]\nwindow = {seconds = 30, buckets = 6}\n'
    )

    def test_a_toml_file_by_its_path(self, tmp_path: Path) -> None:
        """As text or as a Path."""
        file = tmp_path / "resilient.toml"
        file.write_text(self.TEXT)

        @command("app.files")
        def fn() -> None: ...

        for source in (file, str(file)):
            configure(source)
            assert settings_of(fn, "breaker").window == TimeWindow(30, buckets=6)

    def test_the_file_that_the_environment_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """RESILIENT_CONFIG, read when `configure()` is called."""
        file = tmp_path / "resilient.toml"
        file.write_text(self.TEXT)
        monkeypatch.setenv("RESILIENT_CONFIG", str(file))

        @command("app.files")
        def fn() -> None: ...

        assert Command.of(fn).settings.timeout is None
        configure()
        assert Command.of(fn).settings.timeout == 4.0
        monkeypatch.delenv("RESILIENT_CONFIG")
        with pytest.raises(ConfigError, match=r"set \$RESILIENT_CONFIG"):
            configure()

    def test_what_can_not_be_read_is_a_sentence(self, tmp_path: Path) -> None:
        """A file that is not there, one that is no TOML, something else."""
        with pytest.raises(ConfigError, match="can not be read: No such file"):
            configure(tmp_path / "none.toml")
        file = tmp_path / "broken.toml"
        file.write_text("[commands")
        with pytest.raises(ConfigError, match=r"broken\.toml is no TOML: Expected"):
            configure(file)
        file.write_bytes(b"\xff\xfe")
        with pytest.raises(ConfigError, match="is no TOML"):
            configure(file)
        with pytest.raises(ConfigError, match="must be a path or a mapping, not 3"):
            configure(3)  # type: ignore[arg-type]  # the mistake under test

    def test_nothing_is_read_at_import(self, tmp_path: Path) -> None:
        """Whatever the environment says: the application calls `configure`."""
        code = "import resilient, resilient.config, sys; sys.exit('tomllib' in sys.modules)"
        environment = {**os.environ, "RESILIENT_CONFIG": str(tmp_path / "none.toml")}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)

    def test_a_name_that_looks_misspelt_is_told(self, caplog: pytest.LogCaptureFixture) -> None:
        """A command may be made later, so it is no mistake; one that is nearly there is logged as a warning."""

        @command("app.orders")
        def fn() -> None: ...

        with caplog.at_level(logging.DEBUG, "resilient"):
            configure({"commands": {"app.order": {}, "something.else": {}}})
        told = {record.message: record.levelname for record in caplog.records}
        assert told == {
            "configure(): there is no command 'app.order' yet; did you mean 'app.orders'?": "WARNING",
            "configure(): there is no command 'something.else' yet": "DEBUG",
        }
        del fn
