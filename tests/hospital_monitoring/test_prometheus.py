"""A real Prometheus finds the services by the registry and by DNS, scrapes them, and tells who scales."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from examples.hospital.monitoring.configuration import configuration
from examples.hospital.system import HospitalSystem, Options
from examples.support.processes import Service
from tests.peers import require, require_command
from tests.prometheus_server import PrometheusProcess
from tests.waiting import wait_until

SEED = 'http_server_requests_seconds_count{uri=~".*patient.*"}'
PATIENCE = 30.0  # seconds; Prometheus takes new targets every five


class Receiver:
    """Gets the alerts, as Alertmanager would."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/api/v2/alerts":
                    receiver.alerts.extend(json.loads(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def fired(self, name: str) -> list[dict[str, Any]]:
        """The alerts of that name."""
        return [alert for alert in self.alerts if alert["labels"]["alertname"] == name]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Watched:
    """The hospital, Prometheus, and who gets its alerts."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.receiver = stack.enter_context(Receiver())
        self.hospital = HospitalSystem(Options(folder))
        stack.callback(self.hospital.stop)
        self.hospital.start()
        text = configuration(
            registry=self.hospital.registry.address,
            others=[bare(self.hospital.gateway)],
            receiver=self.receiver.address,
            interval=1.0,
        )
        self.prometheus = stack.enter_context(PrometheusProcess(text))
        self.http = stack.enter_context(httpx.Client(trust_env=False))

    def up(self) -> set[tuple[str, str]]:
        """(service, address) of who answered the last scrape."""
        return {(labels["service"], labels["instance"]) for labels, value in self.prometheus.query("up") if value == 1}

    def wanted(self) -> set[tuple[str, str]]:
        """(service, address) of who should."""
        replicas = {(name, bare(one)) for name, several in self.hospital.replicas.items() for one in several}
        return {("gateway", bare(self.hospital.gateway)), *replicas}

    def health(self, process: Service, group: str = "readiness") -> httpx.Response:
        """What a process says of itself."""
        return self.http.get(f"{process.address}/actuator/health/{group}")

    def ask(self, process: Service, times: int) -> None:
        """So many requests of patients."""
        for _ in range(times):
            assert self.http.get(f"{process.address}/patient/1").status_code == 200


def bare(process: Service) -> str:
    """`host:port`, as Prometheus writes it."""
    return process.address.removeprefix("http://")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """All of it, for the tests of this file: it takes seconds to start, and Prometheus seconds to see what is new."""
    with ExitStack() as stack:
        yield Watched(stack, tmp_path_factory.mktemp("hospital"))


@pytest.mark.timeout(120)
def test_every_process_is_found_and_scraped(watched: Watched) -> None:
    """The replicas by Prometheus's own Eureka discovery in the library's registry, with their names."""
    wait_until(lambda: watched.up() == watched.wanted(), timeout=PATIENCE, what="every process in Prometheus")
    labels = [target["labels"] for target in watched.prometheus.targets()]
    assert {one["replica"] for one in labels if one["service"] == "patient"} == {"patient-1", "patient-2"}


def test_every_process_is_ready_and_says_why(watched: Watched) -> None:
    """Readiness looks at the database and at the registration; the gateway shows its circuits."""
    for replica in watched.hospital.all_replicas():
        answer = watched.health(replica)
        assert answer.status_code == 200, answer.text
        components = answer.json()["components"]
        assert components["database"] == {"status": "UP"}
        assert [one["status"] for one in components["registration"]["details"].values()] == ["UP"]
        assert watched.health(replica, "liveness").json()["status"] == "UP"
    gateway = watched.health(watched.hospital.gateway).json()
    assert gateway["status"] == "UP"
    assert set(gateway["components"]["circuitBreakers"]["details"]) >= set(watched.hospital.replicas)
    assert gateway["components"]["discovery"]["details"]["patient"]["details"]["instances"] == 2


def test_the_seeds_query_counts_what_each_replica_answered(watched: Watched) -> None:
    """`http_server_requests_seconds_count{uri=~".*patient.*"}`, under the route's template and Spring's labels."""
    query = 'http_server_requests_seconds_count{uri=~".*patient.*",service="patient",uri="/patient/{id}"}'
    for replica, times in zip(watched.hospital.replicas["patient"], (3, 7), strict=True):
        watched.ask(replica, times)
    counts = {f"patient-{number}": float(times) for number, times in ((1, 3), (2, 7))}

    def counted() -> bool:
        return {labels["replica"]: value for labels, value in watched.prometheus.query(query)} == counts

    wait_until(counted, timeout=PATIENCE, what="the counts in Prometheus")
    labels = watched.prometheus.query(query)[0][0]
    assert {key: labels[key] for key in ("method", "status", "outcome", "exception")} == {
        "method": "GET",
        "status": "200",
        "outcome": "SUCCESS",
        "exception": "None",
    }
    assert {labels["service"] for labels, _ in watched.prometheus.query(SEED)} >= {"patient", "gateway"}


def test_the_alert_reaches_whoever_stands_at_the_alerting_address(watched: Watched) -> None:
    """Busy replicas make Prometheus post PatientBusy, as Alertmanager's API takes it, with the service in a label."""

    def fired() -> list[dict[str, Any]]:
        watched.ask(watched.hospital.gateway, 20)
        return watched.receiver.fired("PatientBusy")

    alert = wait_until(fired, timeout=PATIENCE, what="the alert")[0]
    assert alert["labels"]["service"] == "patient"
    assert float(alert["annotations"]["description"].split()[0]) > 0.15
    assert watched.prometheus.query(f"avg(rate({SEED}[1m]))")[0][1] > 0.15


def test_the_page_of_every_process_is_clean(watched: Watched) -> None:
    """`promtool check metrics` finds nothing to say, after each has answered and called others."""
    command = require_command("promtool", package="prometheus")
    gateway = watched.hospital.gateway
    watched.http.post(f"{gateway.address}/reception/check_in_patient", params={"patientId": 1})
    for process in (gateway, *watched.hospital.all_replicas()):
        page = watched.http.get(f"{process.address}/actuator/prometheus")
        assert b"http_server_requests_seconds_count" in page.content
        done = subprocess.run(
            [command, "check", "metrics"], input=page.content, capture_output=True, timeout=30, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), process.name


@pytest.mark.timeout(120)
def test_the_alert_makes_a_replica_that_is_found_and_scraped_in_its_turn(watched: Watched, tmp_path: Path) -> None:
    """Load, alert, scale, all of it real: Prometheus posts to the autoscaler, which starts a patient service."""
    hospital = watched.hospital
    patient = ["--registry", hospital.registry_url, "--database", hospital.database_url("patient"), "--id", "{id}"]
    told = ["--registry", hospital.registry_url, "--min", "0", "--max", "1", "--cooldown", "1"]  # of its own
    with ExitStack() as stack:
        autoscaler = Service(
            "autoscaler", "examples.hospital.scaling", *told, "--", "examples.hospital.patient", *patient, logs=tmp_path
        )
        stack.callback(autoscaler.stop)
        autoscaler.wait_for_address()
        text = configuration(registry=hospital.registry.address, receiver=bare(autoscaler), interval=1.0)
        prometheus = stack.enter_context(PrometheusProcess(text))

        def scraped() -> bool:
            watched.ask(hospital.gateway, 20)
            found = prometheus.query('up{service="patient"} == 1')
            return len(found) == 3 and any("scaled" in labels["replica"] for labels, _ in found)

        wait_until(scraped, timeout=PATIENCE, what="a third patient in Prometheus")


def test_a_replica_that_drains_is_not_ready_and_then_not_missed(watched: Watched) -> None:
    """Scaling in is no outage: it refuses traffic, leaves the registry, and is no target any more."""
    leaving = watched.hospital.replicas["patient"].pop()
    leaving.ask_to_stop()

    def draining() -> bool:
        try:
            answer = watched.health(leaving)
        except httpx.TransportError:
            pytest.fail("it ended before it had said that it drains")
        return answer.status_code == 503 and answer.json()["components"]["readinessState"]["details"] == {
            "reason": "draining"
        }

    wait_until(draining, what="the drain")
    leaving.end_by(time.monotonic() + 10.0)
    wait_until(lambda: watched.up() == watched.wanted(), timeout=PATIENCE, what="the end of the target")
    assert watched.receiver.fired("ServiceGone") == []


@pytest.fixture
def name_server(tmp_path: Path) -> Iterator[list[str]]:
    """dnsmasq knows `tasks.patient` as swarm's DNS does: an address per replica; gives how to start who asks it.

    Prometheus asks whom /etc/resolv.conf names, at port 53: it gets one of its own, in a mount namespace.
    """
    command = require_command("dnsmasq", package="dnsmasq-base")
    require(os.geteuid() == 0 and shutil.which("unshare"), "a resolv.conf for one process needs root and unshare")
    address = "127.53.0.1"
    log = tmp_path / "dnsmasq.log"
    process = subprocess.Popen(
        [
            *(command, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"),
            *(f"--listen-address={address}", "--bind-interfaces", "--pid-file=", f"--log-facility={log}"),
            *("--host-record=tasks.patient,127.53.0.2", "--host-record=tasks.patient,127.53.0.3"),
        ]
    )
    (tmp_path / "resolv.conf").write_text(f"nameserver {address}\n")
    try:
        wait_until(lambda: "started" in (log.read_text() if log.exists() else ""), what="dnsmasq's start")
        script = f'mount --bind {tmp_path / "resolv.conf"} /etc/resolv.conf && exec "$0" "$@"'
        yield ["unshare", "--mount", "sh", "-c", script]
    finally:
        process.terminate()
        process.wait(10.0)


def test_the_replicas_are_found_by_dns_as_in_a_swarm(name_server: list[str], tmp_path: Path) -> None:
    """`tasks.patient` has an address per replica, and all of them the same port."""
    with ExitStack() as stack:
        first = replica(stack, "127.53.0.2", 0, tmp_path)
        port = int(first.rpartition(":")[2])
        second = replica(stack, "127.53.0.3", port, tmp_path)
        text = configuration(names=["tasks.patient"], port=port, interval=1.0)
        prometheus = stack.enter_context(PrometheusProcess(text, prefix=name_server))

        def up() -> set[str]:
            found = prometheus.query('up{service="patient"}')
            return {labels["instance"] for labels, value in found if value == 1}

        wait_until(lambda: up() == {first, second}, timeout=PATIENCE, what="both replicas by DNS")
        answer = httpx.get(f"http://{first}/actuator/health/readiness", trust_env=False)
        assert (answer.status_code, answer.json()["status"]) == (503, "OUT_OF_SERVICE")  # no registry has listed it


def replica(stack: ExitStack, host: str, port: int, folder: Path) -> str:
    """A patient service at `host`, without a registry; gives `host:port`."""
    told = ["--host", host, "--port", str(port), "--registry", "eureka://127.0.0.1:9"]
    database = ["--database", f"sqlite:///{folder}/patient.db"]
    process = Service(f"patient {host}", "examples.hospital.patient", *told, *database, logs=folder)
    stack.callback(process.stop)
    return process.wait_for_address().removeprefix("http://")
