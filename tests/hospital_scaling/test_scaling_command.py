"""The autoscaler as a process: told by webhook and by a real Prometheus, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples.hospital.load.generator import run
from examples.hospital.load.plan import Plan
from examples.hospital.monitoring.configuration import configuration
from examples.support.processes import Service
from resilient.transport import AsyncResilientTransport
from tests.hospital_scaling.under_load import TIMES, no_user_saw_an_error, version
from tests.prometheus_server import PrometheusProcess
from tests.servers import RegistryProcess
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(120)  # each starts processes that start processes
QUICK = ("--cooldown", "0.2", "--quiet", "0.5", "--linger", "0.3")


class Scaler:
    """The process, and a client that speaks to it."""

    def __init__(self, process: Service, registry: RegistryProcess) -> None:
        self.process = process
        self._registry = registry
        self.http = httpx.Client(base_url=process.wait_for_address(), trust_env=False, timeout=10.0)

    def state(self) -> Any:
        """What it says of itself."""
        return self.http.get("/actuator/health").json()["components"]["scaling"]["details"]

    def listed(self) -> list[str]:
        """The replicas that callers are told of."""
        answer = httpx.get(
            f"{self._registry.http}/eureka/apps/PATIENT", headers={"Accept": "application/json"}, trust_env=False
        )
        if answer.status_code == 404:
            return []
        entries = answer.json()["application"]["instance"]
        return [f"{one['ipAddr']}:{one['port']['$']}" for one in entries if one["status"] == "UP"]

    def until(self, count: int) -> None:
        """Until there are so many, and callers are told of these."""
        wait_until(
            lambda: self.state()["running"] == len(self.listed()) == count, timeout=30.0, what=f"{count} replicas"
        )


@contextmanager
def scaler(logs: Path, *options: str, token: str = "") -> Iterator[Scaler]:
    """An autoscaler of the small service, or of what stands after `--`."""
    with RegistryProcess() as registry:
        url = registry.url + TIMES
        if "--" not in options:
            small = version(url)
            options = (*QUICK, *options, "--", small.module, *small.arguments)
        command = [option.replace("REGISTRY", url) for option in options]
        environment = {"AUTOSCALER_TOKEN": token} if token else {}
        told = ["--registry", url, "--logs", str(logs), *command]
        process = Service("autoscaler", "examples.hospital.scaling", *told, logs=logs, environment=environment)
        try:
            one = Scaler(process, registry)
            with one.http:
                yield one
        finally:
            process.stop()


def message(status: str) -> dict[str, Any]:
    """Of Alertmanager's webhook."""
    labels = {"alertname": "PatientBusy", "service": "patient"}
    return {
        "version": "4",
        "status": status,
        "alerts": [{"status": status, "labels": labels, "startsAt": "2026-11-25T09:52:26.739Z"}],
    }


def alive(addresses: list[str]) -> list[str]:
    """Those that still listen."""
    found = []
    for address in addresses:
        try:
            httpx.get(f"http://{address}/actuator/health", trust_env=False, timeout=2.0)
        except httpx.TransportError:
            continue
        found.append(address)
    return found


def test_it_scales_and_takes_its_replicas_with_it(tmp_path: Path) -> None:
    """Told with the token it scales out and in; SIGTERM ends it, and all it has started."""
    with scaler(tmp_path, "--min", "1", "--max", "2", token="secret") as one:
        one.until(1)
        assert one.http.post("/webhook", json=message("firing")).status_code == 401
        one.http.headers["Authorization"] = "Bearer secret"
        assert one.http.post("/webhook", json=message("firing")).json() == {"alerts": 1, "heard": 1}
        one.until(2)
        assert [replica["name"] for replica in one.state()["replicas"]] == ["patient-scaled-1", "patient-scaled-2"]
        one.http.post("/webhook", json=message("resolved"))
        one.until(1)
        addresses = one.listed()
        one.process.ask_to_stop()
        wait_until(lambda: not one.process.running, what="the autoscaler's end")
        assert one.process._process.returncode == -signal.SIGTERM  # in peace, and then as uvicorn ends
        assert (alive(addresses), one.listed()) == ([], [])
    log = one.process.log
    for told in ("started patient-scaled-2", "the alert is over", "took away patient-scaled-2"):
        assert told in log
    assert "Traceback" not in log


def test_killed_it_leaves_nothing_running(tmp_path: Path) -> None:
    """Its replicas are on a leash."""
    with scaler(tmp_path, "--min", "1", "--max", "1") as one:
        one.until(1)
        addresses = one.listed()
        one.process.kill()
        wait_until(lambda: alive(addresses) == [], timeout=15.0, what="the replica's end")


def test_a_real_prometheus_scales_the_real_patient_service(tmp_path: Path) -> None:
    """Load makes the seed's rule fire; Prometheus posts to the autoscaler; a second replica takes its share."""
    patient = ["examples.hospital.patient", "--registry", "REGISTRY", "--database", f"sqlite:///{tmp_path}/p.db"]
    options = ("--min", "1", "--max", "2", "--cooldown", "1", "--", *patient, "--id", "{id}")
    with scaler(tmp_path, *options) as one:
        one.until(1)
        receiver = one.process.address.removeprefix("http://")
        text = configuration(registry=one._registry.http, receiver=receiver, interval=1.0)
        with PrometheusProcess(text):
            result = asyncio.run(_load_until_scaled(one))
    assert result.served_by.keys() >= {"patient-scaled-1", "patient-scaled-2"}
    assert no_user_saw_an_error(result), (result.errors, result.statuses)


async def _load_until_scaled(one: Scaler) -> Any:
    stop = asyncio.Event()

    def look(result: Any) -> None:
        if len(result.served_by) == 2:
            stop.set()

    transport = AsyncResilientTransport(one._registry.url + TIMES, trust_env=False)
    plan = Plan(("http://patient/patient/1",), rate=20, duration=90)
    return await run(plan, transport=transport, stop=stop, progress=look)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "what is to be scaled?"),
        (["--", "x"], "--registry is missing"),
        (["--registry", "what://x", "--", "x"], "what"),
        (["--registry", "eureka://x:1", "--logs", "/dev/null/logs", "--", "x"], "the logs cannot be written"),
        (["--docker-service", "x", "--", "y"], "not both"),
        (["--docker-service", "x", "--docker-host", "nowhere"], "unix:///var/run/docker.sock"),
        (["--min", "3", "--max", "2", "--docker-service", "x"], "must not be less than minimum"),
        (["--stale", "0", "--docker-service", "x"], "more than 0 seconds"),
        (["--port", "99999", "--docker-service", "x"], "--port must be a whole number"),
        (["--min", "two"], "invalid int value"),
    ],
)
def test_what_is_not_understood_is_a_sentence(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, and why."""
    from examples.hospital.scaling.command import main

    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
