"""The whole hospital, as real processes, for the tests of one module."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.hospital.system import HospitalSystem, Options
from examples.hospital.user import Seen, User
from tests.waiting import wait_until


class Hospital:
    """A running hospital and a user of it.

    Args:
        system: the processes.
        user: who asks the gateway.
    """

    def __init__(self, system: HospitalSystem, user: User) -> None:
        self.system = system
        self.user = user

    def well(self) -> None:
        """Wait until every circuit is closed again, and stays so: what a test broke is over.

        A replica that was ejected may come back later; a test that needs every one calls `system.wait_until_found`.
        """
        for name in self.system.replicas:
            self.system.chaos(name)

        def settled() -> bool:
            """A circuit remembers for ten seconds what failed: with twenty calls it would judge by that once more."""
            asked = [self.user.ask(path).status for path in ("/patient/1", "/reception/check_ins") for _ in range(20)]
            well = set(asked) == {200} and self.user.check_in(1).status == 201
            return well and set(self.system.circuits().values()) == {"closed"}

        wait_until(settled, timeout=25.0, what="every circuit closing")

    def unavailable(self, path: str, *, within: float = 15.0) -> Seen:
        """Ask until the circuit is open: the answer that comes then."""

        def immediate() -> Seen | None:
            seen = self.user.ask(path)
            return seen if seen.status == 503 and seen.milliseconds < 500 else None

        found = wait_until(immediate, timeout=within, what="the circuit opening")
        assert found is not None
        return found


@contextmanager
def running_hospital() -> Iterator[Hospital]:
    """Everything started, found and answering; nothing is left behind."""
    folder = Path(tempfile.mkdtemp(prefix="hospital-test-"))
    system = HospitalSystem(Options(folder))
    try:
        system.start()
        user = User(system.gateway.address)
        try:
            yield Hospital(system, user)
        finally:
            user.close()
    finally:
        system.stop()
        shutil.rmtree(folder)
