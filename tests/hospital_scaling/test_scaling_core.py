"""What the autoscaler decides: the alarm, the target and the loop, in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.hospital.scaling.alarm import Alarm
from examples.hospital.scaling.alerts import Alert
from examples.hospital.scaling.autoscaler import Autoscaler, ReplicaError
from examples.hospital.scaling.target import Limits, Target
from resilient import ConfigError
from resilient.testing import VirtualClock

BUSY = "PatientBusy"


def alert(*, firing: bool = True, at: float = 100.0, ends_in: float | None = None, key: str = "a") -> Alert:
    """A message about one of the alerts."""
    return Alert(BUSY, key, at, firing, ends_in)


def test_an_alert_fires_until_its_end_is_told() -> None:
    """The quiet is counted from there."""
    alarm = Alarm(BUSY, now=0.0)
    assert not alarm.firing(5.0)
    assert alarm.quiet_for(5.0) == 5.0
    alarm.heard(alert(), 10.0)
    assert alarm.firing(20.0)
    assert alarm.quiet_for(20.0) == 0.0
    alarm.heard(alert(firing=False), 30.0)
    assert not alarm.firing(30.0)
    assert alarm.quiet_for(40.0) == 10.0


def test_an_alert_whose_end_was_lost_is_over_after_a_while() -> None:
    """After `stale` seconds, or after the time that the sender itself says."""
    alarm = Alarm(BUSY, stale=300.0, now=0.0)
    alarm.heard(alert(), 10.0)
    assert alarm.firing(309.0)
    assert not alarm.firing(310.0)
    assert alarm.quiet_for(320.0) == 10.0
    alarm.heard(alert(ends_in=60.0), 400.0)
    assert alarm.firing(459.0)
    assert not alarm.firing(460.0)


def test_a_late_message_does_not_make_it_fire_again() -> None:
    """Of the same firing its end is final; only one that began later counts."""
    alarm = Alarm(BUSY, now=0.0)
    alarm.heard(alert(firing=False), 10.0)  # its beginning was lost
    assert alarm.heard(alert(), 11.0)
    assert not alarm.firing(11.0)
    assert alarm.quiet_for(12.0) == 12.0
    alarm.heard(alert(at=200.0), 20.0)
    assert alarm.firing(20.0)
    alarm.heard(alert(firing=False), 21.0)  # of the first one, once more
    assert alarm.firing(21.0)


def test_other_alerts_do_not_count_and_several_of_the_name_do() -> None:
    """It fires while one of them does."""
    alarm = Alarm(BUSY, now=0.0)
    assert not alarm.heard(Alert("ServiceGone", "x", 1.0, firing=True), 1.0)
    assert not alarm.firing(1.0)
    for key in "ab":
        alarm.heard(alert(key=key), 2.0)
    alarm.heard(alert(key="a", firing=False), 3.0)
    assert alarm.firing(3.0)
    assert Alarm(None, now=0.0).heard(Alert("ServiceGone", "x", 1.0, firing=True), 1.0)


def test_what_is_remembered_is_bounded() -> None:
    """Labels that never come back are forgotten, the quiet is not."""
    alarm = Alarm(BUSY, stale=10.0, now=0.0)
    for number in range(5000):
        alarm.heard(alert(key=str(number)), float(number))
    assert len(alarm._known) == 1000
    assert alarm.quiet_for(6000.0) == pytest.approx(6000 - 4999 - 10)


MESSAGES = st.lists(
    st.tuples(st.floats(0.0, 50.0), st.sampled_from("ab"), st.integers(0, 4), st.booleans()), max_size=60
)


@settings(deadline=None)
@given(MESSAGES)
def test_the_alarm_agrees_with_the_latest_message_of_each_alert(
    messages: list[tuple[float, str, int, bool]],
) -> None:
    """Against a model that keeps every message: duplicated, late, lost and out of order makes no difference."""
    now, alarm, seen = 0.0, Alarm(BUSY, stale=30.0, now=0.0), []
    for gap, key, episode, firing in messages:
        now += gap
        alarm.heard(alert(firing=firing, at=float(episode), key=key), now)
        seen.append((key, episode, firing, now))
        expected = False
        for one in "ab":
            latest = max((episode for key, episode, *_ in seen if key == one), default=None)
            of_it = [(firing, at) for key, episode, firing, at in seen if key == one and episode == latest]
            over = any(not firing for firing, _ in of_it)
            expected |= bool(of_it) and not over and of_it[-1][1] + 30.0 > now
        assert alarm.firing(now) is expected
        assert (alarm.quiet_for(now) == 0.0) or not expected
        assert 0.0 <= alarm.quiet_for(now) <= now


TICKS = st.lists(
    st.tuples(
        st.floats(0.1, 20.0),  # seconds that pass
        st.sampled_from(["fires", "over", "lost", "again"]),
        st.sampled_from([0, 0, 0, 0, -1, 1]),  # a replica has died, or one has been started by hand
        st.booleans(),  # whether the step that is wanted succeeds
    ),
    min_size=1,
    max_size=80,
)


@settings(deadline=None)
@given(TICKS, st.integers(0, 3), st.integers(0, 4), st.floats(0.0, 30.0), st.floats(0.0, 60.0))
def test_the_target_keeps_its_limits_and_its_pace(
    ticks: list[tuple[float, str, int, bool]], minimum: int, more: int, cooldown: float, quiet: float
) -> None:
    """Never outside min … max; by one; not twice in a cool-down; up only while it fires, down only after quiet."""
    limits = Limits(minimum, minimum + more, cooldown=cooldown, quiet=quiet)
    now, running, episode, moved = 0.0, minimum, 0, -math.inf
    alarm, target = Alarm(BUSY, stale=40.0, now=0.0), Target(limits, running=running)
    for gap, message, accident, succeeds in ticks:
        now += gap
        if message == "fires":
            episode += 1
        if message != "lost":
            alarm.heard(alert(firing=message != "over", at=float(episode)), now)
        running = max(0, running + accident)
        before, firing, quiet_for = target.wanted, alarm.firing(now), alarm.quiet_for(now)
        wanted = target.decide(now, running=running, firing=firing, quiet_for=quiet_for)
        assert limits.minimum <= wanted <= limits.maximum
        assert abs(wanted - before) <= 1
        if wanted != before:
            assert running == before
            assert now - moved >= cooldown
            assert firing if wanted > before else not firing and quiet_for >= quiet
            moved = now
        if running != wanted and succeeds:
            running += 1 if wanted > running else -1
            target.stepped(now)
            moved = now


def test_it_goes_up_while_it_fires_and_down_after_quiet() -> None:
    """With a second between two looks: 2, then one more each cool-down up to 4, then one fewer each."""
    limits = Limits(2, 4, cooldown=10.0, quiet=30.0)
    course: list[tuple[int, int]] = []
    alarm, target, running = Alarm(BUSY, now=0.0), Target(limits), 2
    for second in range(160):
        if second == 5:
            alarm.heard(alert(), second)
        if second == 60:
            alarm.heard(alert(firing=False), second)
        firing, quiet = alarm.firing(second), alarm.quiet_for(second)
        running = target.decide(second, running=running, firing=firing, quiet_for=quiet)
        if not course or course[-1][1] != running:
            course.append((second, running))
    assert course == [(0, 2), (5, 3), (15, 4), (90, 3), (100, 2)]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"minimum": -1}, "from 0 to 100"),
        ({"maximum": 1000}, "from 0 to 100"),
        ({"minimum": 3, "maximum": 2}, "must not be less than minimum"),
        ({"cooldown": -1.0}, "0 seconds or more"),
        ({"quiet": math.nan}, "finite"),
    ],
)
def test_limits_that_cannot_be_are_refused(options: Mapping[str, Any], says: str) -> None:
    """Each with a sentence."""
    with pytest.raises(ConfigError, match=says):
        Limits(**options)


class Counted:
    """Replicas that are only counted; each step takes two virtual seconds, and fails when told to."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.count = 0
        self.most = 0
        self.fails = ""
        self.tries: list[float] = []
        self.closed = False

    async def running(self) -> int:
        return self.count

    async def add(self) -> str:
        return await self._step(1)

    async def remove(self) -> str:
        return await self._step(-1)

    async def _step(self, by: int) -> str:
        self.tries.append(self._clock.monotonic() - 1000.0)
        await self._clock.sleep_async(2.0)
        if self.fails:
            raise ReplicaError(self.fails)
        self.count += by
        self.most = max(self.most, self.count)
        return f"number {self.count}"

    def listing(self) -> Sequence[Mapping[str, Any]]:
        return [{"name": str(number)} for number in range(self.count)]

    async def close(self) -> None:
        self.closed = True


async def _passes(clock: VirtualClock, seconds: int) -> None:
    for _ in range(seconds):
        await clock.advance_async(1.0)


async def test_the_loop_follows_the_alert_one_step_at_a_time(clock: VirtualClock) -> None:
    """It starts the least, adds while it fires, replaces who dies, and goes back after quiet."""
    replicas = Counted(clock)
    scaler = Autoscaler(replicas, Limits(2, 4, cooldown=10.0, quiet=30.0), alert=BUSY, clock=clock)
    loop = asyncio.create_task(scaler.run())
    await _passes(clock, 12)
    assert replicas.count == 2
    assert scaler.heard([alert(), Alert("Other", "o", 1.0, firing=True)]) == 1
    await _passes(clock, 60)
    assert (replicas.count, replicas.most) == (4, 4)
    replicas.count -= 1
    await _passes(clock, 5)
    assert replicas.count == 4
    scaler.heard([alert(firing=False)])
    await _passes(clock, 29)
    assert replicas.count == 4
    await _passes(clock, 60)
    assert (replicas.count, replicas.most) == (2, 4)
    state = scaler.state()
    assert (state["running"], state["wanted"], state["firing"]) == (2, 2, False)
    told = [event["what"] for event in state["events"]]
    assert "the alert fires" in told
    assert "3 replicas are wanted instead of 2: the alert fires" in told
    assert "took away number 2" in told
    loop.cancel()
    await asyncio.wait({loop})


async def test_a_step_that_fails_is_tried_again_after_ever_longer_pauses(clock: VirtualClock) -> None:
    """A version that cannot start is no hot loop; the trouble is shown until it is over."""
    replicas = Counted(clock)
    replicas.fails = "it does not start"
    scaler = Autoscaler(replicas, Limits(1, 1), clock=clock)
    loop = asyncio.create_task(scaler.run())
    await _passes(clock, 60)
    gaps = [after - before - 2.0 for before, after in zip(replicas.tries, replicas.tries[1:], strict=False)]
    assert gaps == pytest.approx([1, 2, 4, 8, 16], abs=1.0)
    assert scaler.state()["trouble"] == "it does not start"
    replicas.fails = ""
    await _passes(clock, 60)
    assert replicas.count == 1
    assert scaler.state()["trouble"] == ""
    loop.cancel()
    await asyncio.wait({loop})


async def test_an_error_that_nobody_expected_does_not_end_the_loop(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as no memory for one more process: it is shown, logged with where it came from, and tried again."""
    replicas = Counted(clock)
    scaler = Autoscaler(replicas, Limits(1, 1), clock=clock)
    loop = asyncio.create_task(scaler.run())

    async def no_memory() -> str:
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(replicas, "add", no_memory)
        await _passes(clock, 5)
    assert "Cannot allocate memory" in scaler.state()["trouble"]
    assert "in no_memory" in caplog.text
    await _passes(clock, 20)
    assert (replicas.count, scaler.state()["trouble"]) == (1, "")
    loop.cancel()
    await asyncio.wait({loop})
