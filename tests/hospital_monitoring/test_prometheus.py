"""A real Prometheus finds the services by the registry and by DNS, scrapes them, and tells who scales."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from examples.hospital.monitoring.configuration import configuration
from resilient.discovery import Registration, Registry
from tests.gateway.serving import Served
from tests.hospital_monitoring.stand_ins import patient
from tests.peers import require, require_command
from tests.prometheus_server import PrometheusProcess
from tests.servers import RegistryProcess
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


class Ward:
    """A registry, two patient services in it, Prometheus, and who gets its alerts."""

    def __init__(self, stack: ExitStack) -> None:
        self.receiver = stack.enter_context(Receiver())
        server = stack.enter_context(RegistryProcess())
        self.registry = stack.enter_context(Registry.from_url(f"{server.url}?renew_interval=1&lease=3"))
        self.replicas = [stack.enter_context(Served(patient())) for _ in range(2)]
        self.registrations = [stack.enter_context(self._register(one)) for one in self.replicas]
        text = configuration(registry=server.http, receiver=self.receiver.address, interval=1.0)
        self.prometheus = stack.enter_context(PrometheusProcess(text))
        self.http = stack.enter_context(httpx.Client(trust_env=False))

    def _register(self, replica: Served) -> Registration:
        metadata = {"replica": f"patient-{replica.port}"}
        return self.registry.register("patient", host="127.0.0.1", port=replica.port, metadata=metadata)

    def up(self) -> set[str]:
        """The instances that answered the last scrape."""
        return {labels["instance"] for labels, value in self.prometheus.query('up{service="patient"}') if value == 1}

    def ask(self, replica: Served, times: int) -> None:
        """So many requests of patients."""
        for number in range(times):
            assert self.http.get(f"{replica.url}/patient/{number}").status_code == 200


@pytest.fixture(scope="module")
def ward() -> Iterator[Ward]:
    """All of it, for the tests of this file: Prometheus takes seconds to see what is new."""
    with ExitStack() as stack:
        yield Ward(stack)


def test_the_replicas_are_found_by_the_registry(ward: Ward) -> None:
    """By Prometheus's own Eureka discovery, against the library's registry; with their service's name and their own."""
    wanted = {replica.address for replica in ward.replicas}
    wait_until(lambda: ward.up() == wanted, timeout=PATIENCE, what="both replicas in Prometheus")
    labels = [target["labels"] for target in ward.prometheus.targets()]
    assert {(one["service"], one["replica"], one["instance"]) for one in labels} == {
        ("patient", f"patient-{replica.port}", replica.address) for replica in ward.replicas
    }


def test_the_seeds_query_counts_what_the_replicas_answered(ward: Ward) -> None:
    """`http_server_requests_seconds_count{uri=~".*patient.*"}`: one series per replica, under the route's template."""
    for replica, times in zip(ward.replicas, (3, 7), strict=True):
        ward.ask(replica, times)
    counts = {replica.address: float(times) for replica, times in zip(ward.replicas, (3, 7), strict=True)}

    def counted() -> bool:
        found = ward.prometheus.query(SEED)
        return {labels["instance"]: value for labels, value in found} == counts

    wait_until(counted, timeout=PATIENCE, what="the counts in Prometheus")
    labels = ward.prometheus.query(SEED)[0][0]
    assert {key: labels[key] for key in ("uri", "method", "status", "outcome", "exception")} == {
        "uri": "/patient/{id}",
        "method": "GET",
        "status": "200",
        "outcome": "SUCCESS",
        "exception": "None",
    }


def test_the_alert_reaches_whoever_stands_at_the_alerting_address(ward: Ward) -> None:
    """Busy replicas make Prometheus post PatientBusy, as Alertmanager's API takes it, with the service in a label."""

    def fired() -> list[dict[str, Any]]:
        for replica in ward.replicas:
            ward.ask(replica, 5)
        return ward.receiver.fired("PatientBusy")

    alert = wait_until(fired, timeout=PATIENCE, what="the alert")[0]
    assert alert["labels"]["service"] == "patient"
    assert float(alert["annotations"]["description"].split()[0]) > 0.15
    assert ward.prometheus.query(f"avg(rate({SEED}[1m]))")[0][1] > 0.15


def test_a_replica_that_leaves_is_no_target_any_more(ward: Ward) -> None:
    """Scaling in is no outage: who has left the registry is not missed."""
    ward.registrations[1].close()
    gone = ward.replicas[1].address
    wait_until(lambda: gone not in ward.up(), timeout=PATIENCE, what="the end of the target")
    assert [target["labels"]["instance"] for target in ward.prometheus.targets()] == [ward.replicas[0].address]
    assert ward.receiver.fired("ServiceGone") == []


def test_the_page_of_a_service_is_clean(ward: Ward) -> None:
    """`promtool check metrics` finds nothing to say."""
    command = require_command("promtool", package="prometheus")
    ward.ask(ward.replicas[0], 1)
    page = ward.http.get(f"{ward.replicas[0].url}/actuator/prometheus").content
    done = subprocess.run([command, "check", "metrics"], input=page, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


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


def test_the_replicas_are_found_by_dns_as_in_a_swarm(name_server: list[str]) -> None:
    """`tasks.patient` has an address per replica, and all of them the same port."""
    with ExitStack() as stack:
        first = stack.enter_context(Served(patient(), host="127.53.0.2"))
        second = stack.enter_context(Served(patient(), host="127.53.0.3", port=first.port))
        text = configuration(names=["tasks.patient"], port=first.port, interval=1.0)
        prometheus = stack.enter_context(PrometheusProcess(text, prefix=name_server))

        def up() -> set[str]:
            found = prometheus.query('up{service="patient"}')
            return {labels["instance"] for labels, value in found if value == 1}

        wait_until(lambda: up() == {first.address, second.address}, timeout=PATIENCE, what="both replicas by DNS")
