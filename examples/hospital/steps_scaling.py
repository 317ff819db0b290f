"""The steps under load: an alert adds a replica and quiet takes it away, and a new version comes without an error."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import httpx

from examples.hospital.load.generator import run
from examples.hospital.load.plan import Plan
from examples.hospital.load.report import milliseconds
from examples.hospital.load.result import UNFINISHED, Result
from examples.hospital.scaling.listing import EurekaListing
from examples.hospital.scaling.local import LocalReplicas, Version
from examples.hospital.scaling.rolling import Update, rolling_update
from examples.hospital.steps_patient import PATIENT
from examples.hospital.system import id_of
from examples.hospital.tour import HospitalTour
from examples.support.processes import Service

USERS: Final = 50
RATE: Final = 30.0  # requests per second; two shared cores have to serve the tour itself, too
_PATIENCE: Final = 30.0  # seconds for a replica that comes or goes; it takes three
_LONGEST: Final = 120.0  # seconds of load, if nobody ends it before


def an_alert_adds_a_replica(tour: HospitalTour) -> None:
    """Fifty users come: an alert fires and adds a replica; when it is over, the replica goes."""
    system = tour.system
    autoscaler = system.start_autoscaler()
    before = system.registered("patient")
    with _under_load(tour) as load:
        prometheus = _alert(tour, autoscaler)
        more = tour.wait_for(lambda: system.registered("patient") - before, within=_PATIENCE)
        scaled = "patient-scaled-1"
        answers = tour.wait_for(lambda: load.result is not None and load.result.served_by[scaled], within=_PATIENCE)
        tour.check(more and answers, f"the autoscaler starts {scaled}, and it is found and asked")
        if prometheus:
            prometheus.stop()
            tour.say("Prometheus is stopped. An alert that is not repeated is soon over; after four quiet seconds ...")
        else:
            _tell(autoscaler, "resolved")
            tour.say("The alert is over, and after four quiet seconds ...")
        fewer = tour.wait_for(lambda: system.registered("patient") == before, within=_PATIENCE)
        tour.check(fewer, "... the replica is drained and taken away again")
    _no_error(tour, load)
    autoscaler.stop()


def a_new_version_is_rolled_out(tour: HospitalTour) -> None:
    """A new version of the patient service is rolled out under load; and another one, which is no good."""
    with _under_load(tour) as load:
        done = asyncio.run(_update(tour, "patient-new", broken=False))
        for step in done.steps:
            tour.say(f"  {step.replace('patient ', 'patient-')}")
        tour.check(done.done, "every replica is replaced, one at a time, each once its successor is well")
        bad = asyncio.run(_update(tour, "patient-bad", broken=True))
        why, _, _ = bad.why.partition("\n")
        tour.say(f"The next one does not start: {why.rstrip(':')}.")
        names = [id_of(replica.name) for replica in tour.system.replicas["patient"]]
        kept = not bad.done and not bad.left and all(name.startswith("patient-new") for name in names)
        tour.check(kept, f"a version that does not start is given up: {' and '.join(names)} stay")
    _no_error(tour, load)


class _Load:
    """Users that ask for patients while a block runs."""

    def __init__(self, address: str) -> None:
        self._plan = Plan((f"{address}{PATIENT}",), rate=RATE, duration=_LONGEST, users=USERS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._begun = threading.Event()
        self.result: Result | None = None

    def run(self) -> None:
        """Ask, until it is ended."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._begun.set()
        self.result = await run(self._plan, stop=self._stop, progress=self._seen)

    def _seen(self, result: Result) -> None:
        self.result = result

    def end(self) -> None:
        """End it; what is under way is given up."""
        self._begun.wait(10.0)
        if self._loop is not None and self._stop is not None:
            try:
                self._loop.call_soon_threadsafe(self._stop.set)
            except RuntimeError:
                return  # it has ended


@contextmanager
def _under_load(tour: HospitalTour) -> Iterator[_Load]:
    load = _Load(tour.system.gateway.address)
    with ThreadPoolExecutor(1) as pool:
        running: Future[None] = pool.submit(load.run)
        try:
            yield load
        finally:
            load.end()
        running.result(30.0)


def _no_error(tour: HospitalTour, load: _Load) -> None:
    result = load.result
    assert result is not None
    replicas = ", ".join(f"{count} by {replica}" for replica, count in sorted(result.served_by.items()))
    slow = milliseconds(result.latency.at(99))
    tour.say(f"{result.answers} requests of {USERS} users, {RATE:g} a second; 99 of 100 within {slow}. {replicas}.")
    good = set(result.statuses) == {200} and set(result.errors) <= {UNFINISHED}
    tour.check(good, "no user sees an error meanwhile")


def _alert(tour: HospitalTour, autoscaler: Service) -> Service | None:
    """Have the alert fire: by a real Prometheus, where there is one."""
    if shutil.which("prometheus") is None:
        tour.say("There is no Prometheus here (Debian: apt-get install prometheus): its alert is told by the tour.")
        _tell(autoscaler, "firing")
        return None
    prometheus = tour.system.start_prometheus(autoscaler)
    tour.say("Prometheus finds every replica in the registry, and watches the rate of their requests.")
    at = time.monotonic()
    fires = tour.wait_for(lambda: _health(tour, autoscaler)["firing"], within=_PATIENCE)
    took = time.monotonic() - at
    tour.check(fires, f"the alert PatientBusy fires after {took:.1f} s, and the autoscaler hears of it")
    return prometheus


def _health(tour: HospitalTour, autoscaler: Service) -> dict[str, object]:
    found = tour.system.get(f"{autoscaler.address}/actuator/health")
    details: dict[str, object] = found["components"]["scaling"]["details"]
    return details


def _tell(autoscaler: Service, status: str) -> None:
    """Say what Alertmanager's webhook would."""
    labels = {"alertname": "PatientBusy", "service": "patient"}
    starts = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).isoformat()
    message = {"version": "4", "alerts": [{"status": status, "labels": labels, "startsAt": starts}]}
    with httpx.Client(trust_env=False) as http:
        headers = {"Content-Type": "application/json"}
        http.post(f"{autoscaler.address}/webhook", content=json.dumps(message), headers=headers).raise_for_status()


async def _update(tour: HospitalTour, name: str, *, broken: bool) -> Update:
    system = tour.system
    url = "sqlite:////nowhere/patient.db" if broken else system.database_url("patient")
    arguments = ("--registry", system.registry_url, "--database", url, "--id", "{id}", "--chaos")
    version = Version("examples.hospital.patient", arguments)
    listing = EurekaListing(system.registry_url, "patient")
    replicas = LocalReplicas(version, listing, logs=system.folder, name=name, linger=0.5)
    try:
        for process in system.replicas["patient"]:
            replicas.adopt(process)
        return await rolling_update(replicas, version, monitor=0.5)
    finally:
        system.adopt("patient", [replica.process for replica in replicas.live])
        replicas.live.clear()  # they are the system's; closing ends what is left here
        await replicas.close()
