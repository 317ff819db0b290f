"""Health: what makes a process ready, what does not, and checks that hang."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient import CircuitBreaker, ConfigError, Deadline, Keyed
from resilient.balancing import Balancer
from resilient.discovery import Discovery, Registry
from resilient.registry_server import RegistryServer
from resilient.telemetry import Health, HealthInfo
from resilient.testing import VirtualClock
from tests.waiting import wait_until

Report = Callable[..., HealthInfo]


@pytest.fixture(params=["report", "areport"])
def report(request: pytest.FixtureRequest) -> Report:
    """`report(health, group)` in one colour; the test runs once per colour."""
    if request.param == "report":
        return Health.report
    return lambda health, group=None: asyncio.run(health.areport(group))


@pytest.fixture
def left() -> set[str]:
    """The circuits that other tests' modules hold for good: they are in the report, too."""
    return set(circuits(Health().report()))


def circuits(found: HealthInfo) -> dict[str, Any]:
    """Its circuits by name."""
    return dict(found.components["circuitBreakers"].details) if "circuitBreakers" in found.components else {}


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """What a hung check waits for; set at the end, so that its thread ends."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("call", ["health.report()", "asyncio.run(health.areport())"])
def test_a_process_without_checks_lives_and_is_ready(call: str) -> None:
    """The document is that of Spring Boot's Actuator; a process of its own has no policies of other tests."""
    made = "import asyncio, json; from resilient.telemetry import Health; health = Health()"
    code = f"{made}; print(json.dumps({call}.as_dict()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {
        "status": "UP",
        "components": {"livenessState": {"status": "UP"}, "readinessState": {"status": "UP"}},
        "groups": ["liveness", "readiness"],
    }


@pytest.mark.parametrize(
    ("answer", "status", "details"),
    [
        (None, "UP", {}),
        (True, "UP", {}),
        (False, "DOWN", {}),
        ({"rows": 3}, "UP", {"rows": 3}),
        (OSError("no route"), "DOWN", {"error": "OSError: no route"}),
        (17, "DOWN", {"error": "the check returned 17: return None, a bool or a mapping of details"}),
    ],
)
def test_what_a_check_says(report: Report, answer: Any, status: str, details: dict[str, Any]) -> None:
    """None, True and a mapping are UP; False, an error and what nobody understands are DOWN."""

    def check() -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    found = report(Health({"db": check}), "readiness")
    assert (found.status, dict(found.components["db"].details)) == (status, details)
    assert found.http_status == (200 if status == "UP" else 503)


async def test_an_async_check_is_awaited_and_the_sync_report_says_that_it_can_not() -> None:
    """In the loop that asks; without a loop the error names the check and the way."""

    async def check() -> dict[str, str]:
        await asyncio.sleep(0)
        return {"in": "loop"}

    health = Health({"db": check})
    assert (await health.areport()).components["db"].details == {"in": "loop"}
    with pytest.raises(ConfigError, match="'db' is async: use `await areport"):
        health.report()


def test_a_coroutine_from_a_plain_function_is_named_as_the_mistake_it_is(report: Report) -> None:
    """A lambda around an async client would never be awaited."""

    async def ping() -> None: ...

    found = report(Health({"db": lambda: ping()}))
    assert found.components["db"].details["error"] == "the check returned a coroutine: write it as `async def`"


def test_an_answer_holds_for_a_moment(clock: VirtualClock, report: Report) -> None:
    """However many ask, the database is asked once a second."""
    asked: list[int] = []
    health = Health({"db": lambda: asked.append(1)}, max_age=1.0, clock=clock)
    for _ in range(3):
        report(health)
    assert len(asked) == 1
    clock.advance(1.0)
    report(health)
    assert len(asked) == 2


def test_a_check_that_hangs_is_down_and_is_not_asked_again(clock: VirtualClock, released: threading.Event) -> None:
    """It holds one thread, and the reports after the first do not wait for it; when it ends, its answer counts."""
    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        released.wait()

    health = Health({"db": check, "other": lambda: None}, timeout=2.0, max_age=1.0, clock=clock)
    first: list[HealthInfo] = []
    waiting = threading.Thread(target=lambda: first.append(health.report()))
    waiting.start()
    wait_until(lambda: clock.waiting, what="the first report's wait")
    clock.advance(2.0)
    waiting.join()
    assert first[0].components["db"].details == {"error": "no answer within 2 s"}
    for _ in range(5):
        assert health.report("readiness").status == "DOWN"  # at once: nobody moves the clock
    assert asked == [1]
    released.set()
    wait_until(lambda: health.report().components["db"].status == "UP", what="the late answer")
    assert health.report().components["other"].status == "UP"


async def test_an_async_check_that_hangs_is_cancelled_and_asked_again_later(clock: VirtualClock) -> None:
    """Nothing is left behind in the loop."""
    ended: list[str] = []

    async def check() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    health = Health({"db": check}, timeout=2.0, max_age=0, clock=clock)
    for _ in range(2):
        task = asyncio.create_task(health.areport())
        await clock.advance_async(2.0)
        assert (await task).components["db"].details == {"error": "no answer within 2 s"}
        await asyncio.sleep(0)
    assert ended == ["cancelled", "cancelled"]


async def test_tasks_that_ask_at_once_share_one_run_and_one_that_gives_up_stops_nobody() -> None:
    """Single flight; the check belongs to none of those who ask."""
    asked: list[int] = []
    go = asyncio.Event()

    async def check() -> None:
        asked.append(1)
        await go.wait()

    health = Health({"db": check})
    tasks = [asyncio.create_task(health.areport()) for _ in range(10)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.sleep(0)
    go.set()
    reports = await asyncio.gather(*tasks[1:])
    assert [found.status for found in reports] == ["UP"] * 9
    assert asked == [1]
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]


def test_a_check_whose_event_loop_was_closed_is_asked_again_in_the_next_one() -> None:
    """A loop that is dropped with its tasks answers nobody."""
    asked: list[int] = []

    async def check() -> None:
        asked.append(1)
        if len(asked) == 1:
            await asyncio.Event().wait()

    health = Health({"db": check}, max_age=0)
    loop = asyncio.new_event_loop()
    task = loop.create_task(health.areport())
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    for one in (task, *asyncio.all_tasks(loop)):
        one._log_destroy_pending = False  # type: ignore[attr-defined]  # it is the point of this test
    loop.close()
    assert asyncio.run(health.areport()).status == "UP"
    assert len(asked) == 2


def test_threads_that_ask_at_once_share_one_run() -> None:
    """Single flight among threads too."""
    asked: list[int] = []
    together = threading.Barrier(8)
    found: list[str] = []
    health = Health({"db": lambda: asked.append(1)}, max_age=60.0)

    def ask() -> None:
        together.wait()
        found.append(health.report().status)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["UP"] * 8
    assert asked == [1]


def test_the_deadline_of_who_asks_is_not_the_checks(report: Report) -> None:
    """A check runs for everybody: in a context of its own."""
    seen: list[Deadline | None] = []
    health = Health({"db": lambda: seen.append(Deadline.current())})
    with Deadline(5.0):
        report(health)
    assert seen == [None]


def test_liveness_and_readiness_have_their_own_checks(report: Report) -> None:
    """A database that is down is no reason to be restarted; a worker that died is."""
    health = Health({"db": lambda: False}, liveness={"worker": lambda: True})
    assert report(health, "liveness").status == "UP"
    assert set(report(health, "liveness").components) == {"livenessState", "worker"}
    assert report(health, "readiness").status == "DOWN"
    assert report(health).status == "DOWN"
    assert report(Health(liveness={"worker": lambda: False}), "readiness").status == "UP"


def test_who_drains_is_out_of_service_and_lives(report: Report) -> None:
    """Until it takes traffic again."""
    health = Health()
    health.refuse_traffic("rolling update")
    found = report(health, "readiness")
    assert (found.status, found.http_status) == ("OUT_OF_SERVICE", 503)
    assert found.components["readinessState"].details == {"reason": "rolling update"}
    assert report(health, "liveness").status == "UP"
    health.accept_traffic()
    assert report(health, "readiness").status == "UP"


def test_an_open_circuit_is_shown_and_takes_nobody_out_of_service(report: Report) -> None:
    """A dependency that is down is no reason to be down oneself."""
    breaker = CircuitBreaker("patient")
    breaker.open(60.0)
    found = report(Health(), "readiness")
    assert found.status == "UP"
    shown = found.components["circuitBreakers"].details["patient"]
    assert (shown["status"], shown["details"]["state"]) == ("CIRCUIT_OPEN", "OPEN")


def test_a_required_circuit_is_down_while_it_refuses_and_no_longer(clock: VirtualClock, report: Report) -> None:
    """Once its time is over it is ready again: only traffic can close it."""
    breaker = CircuitBreaker("db", clock=clock)
    health = Health(required=["db"])
    assert report(health, "readiness").status == "UP"
    breaker.open(5.0)
    assert report(health, "readiness").status == "DOWN"
    clock.advance(5.0)
    assert breaker.state.name == "OPEN"
    assert report(health, "readiness").status == "UP"
    breaker.force_open()
    assert report(health, "readiness").status == "DOWN"


def test_a_required_circuit_that_is_not_there_is_seen(report: Report, left: set[str]) -> None:
    """It may be made later; a name that is misspelt stands out."""
    found = report(Health(required=["dbb"]), "readiness")
    assert {name: one for name, one in circuits(found).items() if name not in left} == {"dbb": {"status": "UNKNOWN"}}
    assert found.status == "UP"


def test_the_circuits_of_a_keyed_are_counted_by_state(report: Report) -> None:
    """Names of tenants come from users: the report stays short."""
    tenants = Keyed(CircuitBreaker)
    for name in "abc":
        tenants[name].call(len, "")
    tenants["b"].open(60.0)
    found = circuits(report(Health(), "readiness"))
    assert found["keyed"] == {"status": "UP", "details": {"CLOSED": 2, "OPEN": 1}}
    assert not any(name in found for name in "abc")


def test_services_that_are_called_are_shown_with_their_instances(report: Report) -> None:
    """For information: what a service does without another is for its policies to say."""
    with Discovery.from_url("static://ward=127.0.0.1:1,127.0.0.1:2") as discovery:
        there, gone = Balancer("ward", discovery), Balancer("finance", discovery)
        found = report(Health(), "readiness")
    assert found.status == "UP"
    details = found.components["discovery"].details
    assert details["ward"] == {"status": "UP", "details": {"instances": 2, "ageSeconds": 0.0}}
    assert details["finance"]["status"] == "UNKNOWN"
    assert there is not gone


def test_who_was_never_listed_is_not_ready_and_a_registry_that_goes_away_changes_nothing(report: Report) -> None:
    """Nobody can find the first; of the second everybody knows what was known last."""
    health = Health()
    server = RegistryServer()
    server.start()
    server.stop()
    times = "?renew_interval=0.1&lease=0.3&fetch_interval=0.1"
    with Registry.from_url(server.url + times) as registry:
        with registry.register("patient", port=8080, host="127.0.0.1") as registration:
            first = report(health, "readiness")
            assert first.status == "OUT_OF_SERVICE"
            details = dict(
                first.components["registration"].details
            )  # its id is known when it has tried for the first time
            assert details in (
                {one: {"status": "OUT_OF_SERVICE"}} for one in ("patient:8080", "127.0.0.1:patient:8080")
            )
            with server:
                wait_until(lambda: report(health, "readiness").status == "UP", what="the registration")
            wait_until(lambda: not registration.registered, what="the loss of the registration")
            later = report(health, "readiness")
            assert later.status == "UP"
            assert later.components["registration"].status == "UNKNOWN"
        assert "registration" not in report(health, "readiness").components


def test_a_check_that_fails_is_logged_once_per_illness(caplog: pytest.LogCaptureFixture) -> None:
    """At WARNING with the reason, and at INFO when it is over."""
    caplog.set_level("INFO", "resilient")
    well = [True, False, False, True, True]
    health = Health({"db": lambda: well.pop(0)}, max_age=0)
    for _ in range(5):
        health.report()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "the health check 'db' failed: DOWN"),
        ("INFO", "the health check 'db' is well again"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checks": ["db"]}, "checks must be a mapping of names to functions"),
        ({"checks": {"db": 1}}, "checks.db must be a function without arguments, not 1"),
        ({"checks": {" ": len}}, "must be text that is not empty"),
        ({"checks": {"discovery": len}}, "'discovery' is a part of its own"),
        ({"checks": {"a": len}, "liveness": {"a": len}}, "'a' is in checks and in liveness"),
        ({"required": "db"}, "required must be a collection of names"),
        ({"timeout": 0}, "timeout must be more than 0 seconds"),
        ({"max_age": -1}, "max_age must be 0 seconds or more"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    """What was wrong and what is allowed."""
    with pytest.raises(ConfigError, match=message):
        Health(**options)


def test_a_group_that_is_not_there_is_named_with_those_that_are(report: Report) -> None:
    """With the one that was meant."""
    with pytest.raises(ConfigError, match="no group 'readyness'; there are liveness and readiness; did you mean"):
        report(Health(), "readyness")
