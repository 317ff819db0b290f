"""The corners of Chaos: settings, words, and what a predicate or factory may do wrong."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from resilient import ConfigError, Pipeline, Timeout
from resilient.policies.chaos import Chaos
from tests.drive import Drive


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0.0}, "more than 0 and at most 1"),
        ({"rate": 50}, "write 0.5"),
        ({"latency": -1.0}, "0 or more"),
        ({"latency": "1s"}, "must be a number"),
        ({"error": ConnectionError("down")}, "function without arguments"),
        ({"result": []}, "write lambda"),
        ({"error": None}, "nothing to inject"),
        ({"enabled": "yes"}, "True or False"),
        ({"rng": 0.5}, "rng must be a function"),
    ],
)
def test_bad_arguments_are_refused_with_a_sentence(settings: dict[str, Any], message: str) -> None:
    """Each names itself and what is allowed."""
    with pytest.raises(ConfigError, match=message):
        Chaos(**{"error": ConnectionError, **settings})


def test_an_error_that_is_no_exception_is_a_type_error(drive: Drive) -> None:
    """Chaos never cancels or exits."""
    with pytest.raises(TypeError, match="must make an Exception"):
        drive(Chaos(rate=1.0, error=lambda: KeyboardInterrupt(), enabled=True), lambda: 1)  # type: ignore[arg-type, return-value]  # under test


def test_a_broken_call_keeps_its_name_and_its_colour_is_checked() -> None:
    """What layers further in see is the function itself, slower; an async one in `call` is still a TypeError."""
    chaos = Chaos(rate=1.0, latency=lambda: 0.0, enabled=True)

    async def later() -> None: ...

    with pytest.raises(TypeError, match="awaitable"):
        chaos.call(lambda: later())  # type: ignore[unused-coroutine]  # the mistake under test


def test_switching_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody should wonder where the errors come from."""
    chaos = Chaos(rate=0.5, error=ConnectionError, enabled=True)
    chaos.disable()
    chaos.enable()
    found = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    on = "Chaos(rate=0.5) is on: calls are broken on purpose"
    assert found == [on, "Chaos(rate=0.5) is off", on]


def test_explain_says_what_it_does_and_that_it_is_on() -> None:
    """A warning while it is on; the state in the sentence."""
    chaos = Chaos(rate=0.01, latency=1.0, error=ConnectionError)
    guard = Pipeline(Timeout(1.0, thread=False), chaos)
    assert "Chaos (off): 0.01 of the calls are late and fail" in str(guard.explain())
    assert guard.explain().warnings == ()
    with chaos.enabled():
        assert any("on purpose" in warning for warning in guard.explain().warnings)
    assert "return something else" in Chaos(result=list).describe()


def test_new_settings_come_with_their_switch(drive: Drive) -> None:
    """Rule 27: one object is swapped, counts stay."""
    chaos = Chaos(rate=1.0, result=lambda: "old", enabled=True)
    drive(chaos, lambda: "fine")
    chaos.take_settings(Chaos(rate=1.0, result=lambda: "new", enabled=True, name="other"))
    assert drive(chaos, lambda: "fine") == "new"
    chaos.take_settings(Chaos(rate=1.0, result=lambda: "new", name="another"))
    assert drive(chaos, lambda: "fine") == "fine"
    chaos.after_fork_in_child()
    assert json.loads(json.dumps(chaos.snapshot().as_dict())) == {"name": "chaos", "on": False, "injected": 2}
