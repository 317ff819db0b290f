"""The tour of the hospital: asks the gateway as users would, while things are broken on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from examples.hospital.system import HospitalSystem, id_of
from examples.hospital.user import Seen, User
from examples.support.processes import Service
from examples.support.tour import Tour

AT_ONCE = 400.0  # milliseconds that still count as immediate on a busy machine; it is 3 on an idle one


class HospitalTour(Tour):
    """What every step of the tour works with.

    Args:
        system: the running hospital.
        user: somebody who asks the gateway.
        out: prints one line, default `print`.
    """

    def __init__(self, system: HospitalSystem, user: User, out: Callable[[str], None] = print) -> None:
        super().__init__(out)
        self.system = system
        self.user = user

    def ask(self, path: str) -> Seen:
        """One question, and what its answer shows."""
        return self.shows(self.user.ask(path))

    def all_well(self, path: str, *, by: Iterable[Service], within: float = 20.0) -> bool:
        """Ask until each of these replicas has answered well; whether that came."""
        wanted = {id_of(replica.name) for replica in by}
        good: set[str] = set()

        def enough() -> bool:
            seen = self.user.ask(path)
            if seen.status == 200:
                good.add(seen.served_by)
            return good >= wanted

        return self.wait_for(enough, within=within)

    def at_once(self, path: str, *, within: float = 15.0) -> Seen | None:
        """Ask until the circuit is open, and the answer immediate; None when that did not come."""

        def immediate() -> Seen | None:
            seen = self.user.ask(path)
            return seen if seen.status == 503 and seen.milliseconds < AT_ONCE else None

        return self.wait_for(immediate, within=within)

    @contextmanager
    def hanging(self, replicas: Iterable[Service]) -> Iterator[None]:
        """These replicas hang while the block runs."""
        replicas = list(replicas)
        for replica in replicas:
            replica.suspend()
        try:
            yield
        finally:
            for replica in replicas:
                replica.resume()


def names(replicas: Iterable[Service]) -> str:
    """Such as: patient-1 and patient-2."""
    return " and ".join(id_of(replica.name) for replica in replicas)
