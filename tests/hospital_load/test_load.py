"""The load generator: an open loop whose numbers are right."""

from __future__ import annotations

import asyncio
import io
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from examples.hospital.load.arrivals import due_times
from examples.hospital.load.generator import run
from examples.hospital.load.latency import Latency
from examples.hospital.load.plan import Plan
from examples.hospital.load.progress import Progress
from examples.hospital.load.report import line, print_report
from examples.hospital.load.result import Result
from resilient import ConfigError
from resilient.testing import VirtualClock
from tests.examples.weather_servers import served
from tests.gateway.serving import answer, lifespan

URL = "http://127.0.0.1:1/patients/1"


class Answers(httpx.AsyncBaseTransport):
    """Answers after `takes` virtual seconds; notes when each request came."""

    def __init__(self, clock: VirtualClock, takes: float = 0.0, status: Callable[[int], int] = lambda _: 200) -> None:
        self._clock, self._takes, self._status = clock, takes, status
        self.came: list[float] = []
        self.paths: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        number = len(self.came)
        self.came.append(self._clock.monotonic() - 1000.0)
        self.paths.append(request.url.path)
        if self._takes:
            await self._clock.sleep_async(self._takes)
        return httpx.Response(self._status(number), headers={"X-Served-By": f"replica-{number % 2}"})


async def _run(plan: Plan, takes: float = 0.0, status: Callable[[int], int] = lambda _: 200) -> tuple[Result, Answers]:
    clock = VirtualClock(auto=True)
    transport = Answers(clock, takes, status)
    return await run(plan, transport=transport, clock=clock), transport


async def test_constant_arrivals_are_exact() -> None:
    """20 per second for 3 s are 60 requests, each at its own moment."""
    result, transport = await _run(Plan((URL,), rate=20, duration=3, arrivals="constant"))
    assert transport.came == pytest.approx([number / 20 for number in range(60)], abs=1e-9)
    assert (result.due, result.sent, result.answers, result.failed, result.under_way) == (60, 60, 60, 0, 0)
    assert result.lag.summary().max <= 2e-6


async def test_poisson_arrivals_are_those_of_the_seed() -> None:
    """What is due is what arrives, and the same seed makes it again."""
    plan = Plan((URL,), rate=50, duration=10, seed=7)
    _, transport = await _run(plan)
    assert transport.came == pytest.approx(list(due_times(plan)), abs=1e-9)
    assert len(transport.came) == pytest.approx(500, abs=70)  # 3 standard deviations
    gaps = [after - before for before, after in zip(transport.came, transport.came[1:], strict=False)]
    mean = sum(gaps) / len(gaps)
    assert math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) == pytest.approx(mean, rel=0.15)


async def test_several_urls_are_asked_in_turn_and_the_count_is_a_limit() -> None:
    """A plan ends at its duration or its count, whichever is first."""
    plan = Plan(("http://a.test/1", "http://b.test/2"), rate=10, duration=60, requests=5, arrivals="constant")
    result, transport = await _run(plan)
    assert transport.paths == ["/1", "/2", "/1", "/2", "/1"]
    assert result.due == 5


async def test_a_request_that_waits_for_a_user_is_measured_from_when_it_was_due() -> None:
    """One user, 0.5 s each, ten due in a second: the last waits 3.6 s, though each answer takes 0.5 s."""
    result, _ = await _run(Plan((URL,), rate=10, duration=1, users=1, arrivals="constant"), takes=0.5)
    assert result.delayed == 9
    assert result.latency.summary().max == pytest.approx(0.5 * 10 - 0.9, rel=0.01)
    assert result.latency.summary().p50 == pytest.approx(0.5 * 5 - 0.4, rel=0.01)
    assert result.from_sent.summary().max == pytest.approx(0.5, rel=0.01)
    assert result.seconds == pytest.approx(5.0)
    assert result.rate == pytest.approx(2.0)


async def test_what_has_no_answer_at_the_end_counts_with_the_time_it_waited() -> None:
    """The run ends `timeout` seconds after its duration; nothing that was due is left out."""
    result, _ = await _run(Plan((URL,), rate=10, duration=1, users=2, timeout=4, arrivals="constant"), takes=1e6)
    assert result.errors == {"unfinished": 2, "never sent": 8}
    assert (result.due, result.failed, result.under_way) == (10, 10, 0)
    assert result.latency.count == 10
    assert result.latency.summary().max == pytest.approx(5.0, rel=0.01)
    assert not result.interrupted


async def test_statuses_and_instances_are_counted() -> None:
    """Each answer by its status and by who gave it; 400 and more have failed."""
    result, _ = await _run(
        Plan((URL,), rate=10, duration=2, arrivals="constant"), status=lambda number: [200, 302, 404, 503][number % 4]
    )
    assert result.statuses == {200: 5, 302: 5, 404: 5, 503: 5}
    assert result.classes == {"2xx": 5, "3xx": 5, "4xx": 5, "5xx": 5}
    assert result.served_by == {"replica-0": 10, "replica-1": 10}
    assert (result.failed, result.succeeded.count, result.error_ratio) == (10, 10, 0.5)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ConnectError("refused"), "no connection"),
        (httpx.ReadError("reset"), "broken connection"),
        (httpx.RemoteProtocolError("left"), "broken connection"),
        (httpx.ConnectTimeout("slow"), "timeout"),
        (httpx.UnsupportedProtocol("what"), "UnsupportedProtocol"),
    ],
)
async def test_errors_are_counted_by_their_kind(error: httpx.HTTPError, kind: str) -> None:
    """A request without an answer is a failure with a name."""

    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    plan = Plan((URL,), rate=5, duration=1, arrivals="constant")
    result = await run(plan, transport=httpx.MockTransport(fail), clock=VirtualClock(auto=True))
    assert result.errors == {kind: 5}
    assert (result.failed, result.answers, result.error_ratio) == (5, 0, 1.0)


async def test_a_mistake_of_the_transport_is_not_taken_for_a_failed_request() -> None:
    """What is no HTTP error ends the run: it would be a mistake of ours."""

    def fail(_: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError

    plan = Plan((URL,), rate=5, duration=1)
    with pytest.raises(ExceptionGroup) as raised:
        await run(plan, transport=httpx.MockTransport(fail), clock=VirtualClock(auto=True))
    assert raised.group_contains(ZeroDivisionError)


async def test_a_run_that_is_stopped_has_what_was_seen_so_far() -> None:
    """Stopped, it gives up what is under way, and says that it was stopped."""
    stop = asyncio.Event()
    clock = VirtualClock(auto=True)
    seen: list[int] = []

    def progress(result: Result) -> None:
        seen.append(result.due)
        if result.due >= 30:
            stop.set()

    plan = Plan((URL,), rate=10, duration=3600, arrivals="constant")
    result = await run(plan, transport=Answers(clock), stop=stop, progress=progress, clock=clock)
    assert result.interrupted
    assert 30 <= result.due < 40
    assert result.under_way == 0
    assert seen == sorted(seen)


@settings(deadline=None)
@given(st.lists(st.floats(1e-4, 3000.0), min_size=1, max_size=300))
def test_the_figures_are_right_within_one_percent(values: list[float]) -> None:
    """Percentiles by nearest rank, the mean and the longest, against the values themselves."""
    latency = Latency()
    for value in values:
        latency.record(value)
    ranked = sorted(values)
    for percentile in (50.0, 90.0, 99.0, 99.9):
        exact = ranked[max(1, math.ceil(round(len(ranked) * percentile / 100, 6))) - 1]
        assert latency.at(percentile) == pytest.approx(exact, rel=0.01)
    summary = latency.summary()
    assert summary.max == pytest.approx(ranked[-1], rel=0.01)
    assert summary.mean == pytest.approx(sum(ranked) / len(ranked), rel=0.01)
    assert summary.count == len(values)


def test_a_latency_beyond_all_measure_is_kept_at_the_edge() -> None:
    """Nothing is lost: less than a microsecond is one, more than an hour is an hour."""
    latency = Latency()
    latency.record(0.0)
    latency.record(1e9)
    assert latency.count == 2
    assert latency.summary().max == pytest.approx(3600, rel=0.01)
    assert Latency().summary().p99 == 0.0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"urls": ()}, "at least one URL"),
        ({"urls": ("ftp://x/",)}, "no URL like"),
        ({"urls": ("http://",)}, "no URL like"),
        ({"urls": ("http://x:99999999/",)}, "no URL like"),
        ({"urls": ("http://x:port/",)}, "is no URL"),
        ({"rate": 0}, "more than 0 per second"),
        ({"rate": math.nan}, "finite"),
        ({"rate": 5000.0, "duration": 3600.0}, "more than 1,000,000 requests"),
        ({"duration": -1}, "more than 0 seconds"),
        ({"duration": 1e5}, "at most 3600"),
        ({"users": 0}, "from 1 to 10,000"),
        ({"requests": 0}, "from 1 to 1,000,000"),
        ({"arrivals": "burst"}, "constant or poisson"),
        ({"method": "GET /"}, "a word like GET"),
        ({"timeout": 0}, "more than 0 seconds"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(options: Mapping[str, Any], says: str) -> None:
    """Each value that is out of range has a sentence."""
    with pytest.raises(ConfigError, match=says):
        Plan(**{"urls": (URL,), **options})


def test_a_password_is_not_shown() -> None:
    """A report is passed around."""
    assert Plan(("http://me:secret@x/1",)).shown == ("http://x/1",)


async def test_the_report_has_the_figures_and_the_course() -> None:
    """What went wrong stands in it, and the plot has an axis."""
    plan = Plan((URL,), rate=20, duration=3, users=1, arrivals="constant")
    result, _ = await _run(plan, takes=0.1, status=lambda number: 200 if number % 10 else 503)
    out = io.StringIO()
    print_report(result, Console(file=out, width=100), with_plot=True)
    text = out.getvalue()
    for part in ("20 per second (constant) for 3 s", "60 due, 60 answered, 6 failed", "p99.9", "503", "replica-1"):
        assert part in text
    assert "latency from due" in text
    assert "\x1b" not in text


async def test_progress_is_a_changing_line_in_a_terminal_and_seldom_a_line_elsewhere() -> None:
    """A log is not filled with what a terminal would overwrite."""
    result, _ = await _run(Plan((URL,), rate=20, duration=1, arrivals="constant"))
    for terminal in (True, False):
        out = io.StringIO()
        with Progress(Console(file=out, force_terminal=terminal, width=200, highlight=False)) as progress:
            for _ in range(3):
                progress(result)
        assert ("20 due, 20 answered" in out.getvalue()) is terminal
    assert line(result).startswith("20 due, 20 answered, 0 failed, 0 under way")


class Stalling:
    """Answers at once, but for one second from the moment when the `at`th request came nobody."""

    def __init__(self, at: int) -> None:
        self._at, self.requests = at, 0
        self._until = 0.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        self.requests += 1
        if self.requests == self._at:
            self._until = time.monotonic() + 1.0
        await asyncio.sleep(max(0.0, self._until - time.monotonic()))
        return await answer(send, 200, b"well", [(b"x-served-by", b"me")])


async def test_a_stall_is_seen_by_all_who_were_due_meanwhile() -> None:
    """A second's stall of a real server: an open loop sees it in p99, a closed loop would have seen it once."""
    with served(Stalling(at=50)) as url:
        plan = Plan((url,), rate=60, duration=4, users=1, arrivals="constant")
        result = await run(plan)
    assert (result.failed, result.answers) == (0, 240)
    assert result.served_by == {"me": 240}
    assert result.latency.at(99) > 0.85
    assert result.latency.at(90) > 0.4  # of 240 requests some 60 were due during the stall
    assert result.from_sent.at(99) < 0.4
    assert result.from_sent.summary().max > 0.9


async def test_a_real_server_that_never_answers_times_out() -> None:
    """The time limit is that of the whole request, body and all."""

    async def trickles(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            await asyncio.sleep(0.02)

    with served(trickles) as url:
        result = await run(Plan((url,), rate=20, duration=0.5, timeout=0.3, arrivals="constant"))
    assert result.errors == {"timeout": 10}
    assert result.latency.at(50) >= 0.29
