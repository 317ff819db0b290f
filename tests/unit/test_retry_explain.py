"""What a retry explains: its worst case, what will bite, one sentence."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import tenacity

from resilient import CircuitBreaker, Pipeline, Timeout
from resilient.policies.retry import Retry
from resilient.policy import Policy
from tests.jumping import JumpingClock


@pytest.fixture
def clock() -> JumpingClock:
    """Time that sleeps move on."""
    return JumpingClock()


class TestExplain:
    """What it costs at worst, and what will bite."""

    def test_the_worst_case(self, clock: JumpingClock) -> None:
        """Attempts multiply; waits are the longest of the policy's own and of Retry-After."""
        found = Pipeline(Retry(attempts=3, max_retry_after=2.0), Timeout(1.0)).explain()
        assert (found.worst_case_calls, found.worst_case_wait) == (3, 3 * 1.0 + 2 * 2.0)
        found = Pipeline(Retry(attempts=9, wait=0.5, max_retry_after=0.1), Timeout(1.0)).explain()
        assert found.worst_case_wait == 9 * 1.0 + 8 * 0.5
        found = Pipeline(Retry(attempts=9, max_retry_after=0.1), Timeout(1.0)).explain()
        assert found.worst_case_wait == pytest.approx(9 + 0.1 + 0.2 + 0.4 + 0.8 + 1.6 + 3.2 + 5 + 5)
        found = Pipeline(Retry(attempts=9, total=5.0), Timeout(1.0)).explain()
        assert found.worst_case_wait == 6.0
        assert Retry().explain().worst_case_wait == math.inf
        unknown = Pipeline(Retry(stop=lambda _state: False), Timeout(1.0)).explain()
        assert (unknown.worst_case_calls, unknown.worst_case_wait) == (1_000_000, math.inf)
        assert Retry(attempts=1001, wait=1.0, max_retry_after=0.1).granted(0.0) == 1000.0

    @pytest.mark.parametrize(
        ("wait", "longest"),
        [
            (tenacity.wait_fixed(2), 2 + 2 + 2),
            (tenacity.wait_random(1, 3), 3 + 3 + 3),
            (tenacity.wait_incrementing(1, 2), 1 + 3 + 5),
            (tenacity.wait_exponential(), 1 + 2 + 4),
            (tenacity.wait_random_exponential(max=3), 1 + 2 + 3),
            (tenacity.wait_exponential_jitter(max=7), 7 + 7 + 7),
            (tenacity.wait_fixed(1) + tenacity.wait_random(0, 1), 2 + 2 + 2),
            (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(5)), 1 + 5 + 5),
            (lambda _state: 1.0, math.inf),
        ],
    )
    def test_tenacitys_waits_are_understood(self, wait: Any, longest: float) -> None:
        """The longest that each can give."""
        assert Retry(attempts=4, wait=wait, max_retry_after=0.001).granted(0.0) == longest

    def test_without_tenacity_nothing_is_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A function is a function where tenacity was never imported."""
        monkeypatch.delitem(sys.modules, "tenacity")
        retry = Retry(wait=lambda _state: 1.0, stop=lambda _state: False)
        assert (retry.granted(1.0), retry.settings.bounded) == (math.inf, False)
        assert Retry(wait=lambda _state: 1.0).granted(1.0) == math.inf

    @pytest.mark.parametrize(
        ("policies", "told"),
        [
            ([Retry()], "safe to repeat"),
            ([Retry(), Timeout(1.0)], "a caller may wait for 3 of them"),
            ([Retry(), Timeout(1.0)], "goes on in its thread"),
            ([CircuitBreaker(), Retry()], "sees one call where Retry"),
            ([Retry(), Retry()], "the inner one makes one attempt"),
            ([Retry(stop=lambda _state: False)], "goes on until stop= says no"),
        ],
    )
    def test_warnings(self, policies: list[Policy[Any]], told: str) -> None:
        """Orders that multiply or hide."""
        assert any(told in warning for warning in Pipeline(*policies).explain().warnings)

    def test_a_hedge_inside(self) -> None:
        """By kind: policies do not know each other."""

        class Hedge(Policy[Any]):
            kind = "hedge"

        found = Pipeline(Retry(), Hedge()).explain().warnings
        assert any("each attempt may be two calls" in warning for warning in found)

    def test_where_nothing_bites(self) -> None:
        """One attempt repeats nothing; a limit outside bounds the whole."""
        assert Retry(attempts=1).explain().warnings == ()
        found = Pipeline(Timeout(5.0, thread=False), Retry(), Timeout(1.0, thread=False)).explain().warnings
        assert not any("a caller may wait" in warning for warning in found)

    @pytest.mark.parametrize(
        ("settings", "told"),
        [
            (
                {},
                "at most 3 attempts, waits by chance up to 0.1 s, doubling to 5 s, or as Retry-After asks, up to 30 s",
            ),
            ({"wait": 1.5, "total": 4.0}, "at most 3 attempts, no attempt begins after 4 s, waits 1.5 s"),
            ({"stop": lambda _state: True}, "attempts until stop= says no"),
        ],
    )
    def test_one_sentence(self, settings: dict[str, Any], told: str) -> None:
        """How often, how long between, and the budget."""
        sentence = Retry("svc", **settings).describe()
        assert told in sentence
        assert "at most 20% of the first attempts of the last 10 s, or 3 at once" in sentence
