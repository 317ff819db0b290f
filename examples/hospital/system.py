"""The hospital as a whole: which processes it has, and what one tells the other.

    user ──► gateway ──► patient 1, patient 2 ──► their database
                ├──────► reception ──► its database          ┐
                ├──────► ward 1, ward 2 ──► theirs           ├── messages through the broker
                └──────► finance 1, finance 2 ──► theirs     ┘

Each is told where the registry, the broker and its own database are, and nothing of the others.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from examples.hospital.chaos import PATH
from examples.hospital.messages.local_broker import LocalBroker, LocalBrokerError
from examples.support.processes import Service, StartError
from examples.support.system import System

REPLICAS: Final = {"patient": 2, "reception": 1, "ward": 2, "finance": 2}
LISTS: Final = {
    "patient": "/patient",
    "reception": "/reception/check_ins",
    "ward": "/ward/entries",
    "finance": "/finance/invoices",
}
WITH_MESSAGES: Final = ("reception", "ward", "finance")
_FOUND_WITHIN: Final = 20.0  # seconds; it takes one


@dataclass(frozen=True, slots=True)
class Options:
    """What can be chosen.

    Attributes:
        folder: for the logs of all processes, and for the databases.
        registry_port: where the registry listens, or anywhere when that is taken.
        gateway_port: where the gateway listens; 0: anywhere.
        broker: the address of a broker that runs already; None: a NATS server of its own.
    """

    folder: Path
    registry_port: int = 0
    gateway_port: int = 0
    broker: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How many check-ins there are, and how many of them have got how far."""

    check_ins: int
    completed: int
    entries: int
    admitted: int
    invoices: int

    @property
    def complete(self) -> bool:
        """Whether everything that is to happen for a check-in has happened, once for each."""
        return {self.completed, self.entries, self.admitted, self.invoices} == {self.check_ins}

    def __str__(self) -> str:
        return (
            f"{self.check_ins} check-ins, {self.entries} ward entries, {self.invoices} invoices,"
            f" {self.completed} completed, {self.admitted} admitted"
        )


class HospitalSystem(System):
    """All processes of the hospital.

    Args:
        options: what can be chosen.

    Attributes:
        gateway: what a user speaks to.
        replicas: by service, those that should be running.
        folder: with the logs and the databases.
        broker: the NATS server; None when another broker is used.
    """

    gateway: Service

    def __init__(self, options: Options) -> None:
        several = [name for name, count in REPLICAS.items() if count > 1]
        super().__init__(options.folder, registry_port=options.registry_port, numbered=several)
        self.folder = options.folder
        self._gateway_port = options.gateway_port
        self._broker_url = options.broker
        self.broker = None if options.broker else LocalBroker(options.folder / "nats")
        self.replicas: dict[str, list[Service]] = {}

    def start(self) -> None:
        """Start everything, and wait until a user of the gateway is answered by every replica."""
        registry = self.launch_registry()
        if self.broker is not None:
            self.start_broker(self.broker)
        self.registry = self.registry_at_last(registry)
        self.gateway = self._launch_gateway(self._gateway_port)
        self.replicas = {name: [self._launch_replica(name) for _ in range(count)] for name, count in REPLICAS.items()}
        for process in (self.gateway, *self.all_replicas()):
            process.wait_for_address()
        self.wait_until_found()

    def stop(self) -> None:
        """Stop everything that was started; the broker last, as the others speak to it."""
        super().stop()
        if self.broker is not None:
            self.broker.stop()

    def start_broker(self, broker: LocalBroker) -> None:
        """Start the NATS server, for the first time or again: it has what it had, at the same address.

        Raises:
            StartError: when it does not start.
        """
        try:
            broker.start()
        except LocalBrokerError as error:
            raise StartError(f"the broker did not start: {error}") from error
        self._broker_url = broker.url

    def wait_until_found(self) -> None:
        """Wait until the gateway has had an answer from every replica, and lately from no other.

        Raises:
            StartError: when that takes too long.
        """
        deadline = time.monotonic() + _FOUND_WITHIN
        for name, several in self.replicas.items():
            wanted = {id_of(replica.name) for replica in several}
            seen: list[str] = []
            while set(seen[-2 * len(wanted) :]) != wanted:
                if time.monotonic() > deadline:
                    raise StartError(f"the gateway does not find {wanted}, but {sorted(set(seen))}")
                answer = self._http.get(f"{self.gateway.address}{LISTS[name]}")
                seen.append(answer.headers.get("X-Served-By", "nobody"))
                time.sleep(0.02)

    def expected(self) -> list[Service]:
        """The processes that should be running."""
        return [self.registry, self.gateway, *self.all_replicas()]

    def all_replicas(self) -> list[Service]:
        """The replicas of all services."""
        return [replica for several in self.replicas.values() for replica in several]

    def add_replica(self, name: str) -> Service:
        """Start one more replica of a service, and wait until it listens."""
        new = self._launch_replica(name)
        self.replicas[name].append(new)
        new.wait_for_address()
        return new

    def remove_replica(self, gone: Service) -> None:
        """Take a replica away: it leaves the registry, answers what still comes, and ends."""
        for several in self.replicas.values():
            if gone in several:
                several.remove(gone)
        gone.stop()

    def replace_replica(self, gone: Service) -> Service:
        """Start a replica instead of one that has ended, and wait until it listens."""
        name = next(name for name, several in self.replicas.items() if gone in several)
        self.replicas[name].remove(gone)
        return self.add_replica(name)

    def adopt(self, name: str, replicas: list[Service]) -> None:
        """These are the replicas of a service from now on, whoever has started them; `stop` ends them, too."""
        self.replicas[name] = replicas
        self._started += [replica for replica in replicas if replica not in self._started]

    def start_autoscaler(self) -> Service:
        """Start who adds up to two patient replicas while an alert fires, and takes them away after four seconds."""
        limits = ["--min", "0", "--max", "2", "--cooldown", "2", "--quiet", "4", "--linger", "0.5"]
        told = ["--registry", self.registry_url, "--logs", str(self.folder)]
        patient = ["--registry", self.registry_url, "--database", self.database_url("patient"), "--id", "{id}"]
        module = "examples.hospital.scaling"
        autoscaler = self.launch("autoscaler", module, *limits, *told, "--", "examples.hospital.patient", *patient)
        autoscaler.wait_for_address()
        return autoscaler

    def start_prometheus(self, receiver: Service) -> Service:
        """Start a Prometheus that watches every replica, and tells `receiver` its alerts."""
        told = ["--registry", self.registry.address, "--alerts", receiver.address.removeprefix("http://")]
        prometheus = self.launch("prometheus", "examples.hospital.monitoring.prometheus", *told)
        prometheus.wait_for_address()
        return prometheus

    def restart_gateway(self) -> None:
        """Start a gateway at the address that everybody knows."""
        self.gateway = self._launch_gateway(int(self.gateway.address.rpartition(":")[2]))
        self.gateway.wait_for_address()

    def circuits(self) -> dict[str, str]:
        """The states of the gateway's circuits, by route."""
        return self.get(f"{self.gateway.address}/circuits")

    def chaos(self, name: str, **wanted: object) -> None:
        """Tell every replica of a service how to misbehave from now on: `latency=2.0`, `fail=True`, or nothing."""
        for replica in self.replicas[name]:
            self._http.post(f"{replica.address}{PATH}", json=wanted).raise_for_status()

    def messages(self) -> dict[str, dict[str, int]]:
        """What each replica has sent and taken, by its id."""
        found = {}
        for name in WITH_MESSAGES:
            for replica in self.replicas[name]:
                said = self.get(f"{replica.address}/messages")
                found[id_of(replica.name)] = {word: value for word, value in said.items() if word != "served_by"}
        return found

    def done(self) -> Progress:
        """How far the check-ins are, as the services' own lists say."""
        lists = {name: self.get(f"{self.gateway.address}{path}") for name, path in LISTS.items() if name != "patient"}
        return Progress(
            check_ins=lists["reception"]["count"],
            completed=lists["reception"]["states"].get("completed", 0),
            entries=lists["ward"]["count"],
            admitted=lists["ward"]["states"].get("admitted", 0),
            invoices=lists["finance"]["count"],
        )

    def database_url(self, name: str) -> str:
        """Where a service's data is."""
        return f"sqlite:///{self.folder / name}.db"

    def _launch_replica(self, name: str) -> Service:
        told = ["--registry", self.registry_url, "--database", self.database_url(name)]
        if name in WITH_MESSAGES and self._broker_url:
            told += ["--broker", self._broker_url]
        return self.launch(name, f"examples.hospital.{name}", "--id", id_of(self.next_name(name)), "--chaos", *told)

    def _launch_gateway(self, port: int) -> Service:
        module = "examples.hospital.gateway"
        return self.launch("gateway", module, "--registry", self.registry_url, "--port", str(port))


def id_of(name: str) -> str:
    """How the replica with that process name calls itself in its answers."""
    return name.replace(" ", "-")
