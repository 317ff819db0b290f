"""The demo of the hospital."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from examples.hospital.steps import STEPS
from examples.hospital.system import HospitalSystem, Options
from examples.hospital.tour import HospitalTour
from examples.hospital.user import User
from examples.support.demo import Demo


class HospitalDemo(Demo[HospitalSystem]):
    """What it starts, shows and tours."""

    name = "hospital"
    parts = "the registry, a broker, a gateway, and patient, reception, ward and finance"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Options that only this demo has."""
        parser.add_argument("--gateway-port", type=int, default=0, metavar="PORT", help="default: any free one")
        parser.add_argument(
            "--broker", metavar="URL", help="a broker that runs already, such as kafka://localhost:9092"
        )

    def system(self, logs: Path, arguments: argparse.Namespace) -> HospitalSystem:
        """The application, not yet started."""
        return HospitalSystem(
            Options(
                logs,
                registry_port=arguments.registry_port,
                gateway_port=arguments.gateway_port,
                broker=arguments.broker,
            )
        )

    def addresses(self, system: HospitalSystem) -> Iterable[tuple[str, str]]:
        """What there is to look at."""
        yield "The gateway", f"{system.gateway.address}/patient/1"
        yield "A check-in", f"{system.gateway.address}/reception/check_in_patient?patientId=1"
        yield "The circuits", f"{system.gateway.address}/circuits"

    def front(self, system: HospitalSystem) -> str:
        """The gateway."""
        return f"{system.gateway.address}/patient/1"

    def tour(self, system: HospitalSystem) -> bool:
        """Take the tour; whether everything held."""
        user = User(system.gateway.address)
        try:
            return HospitalTour(system, user, out=lambda line: print(line, flush=True)).run(STEPS)
        finally:
            user.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; its exit status."""
    return HospitalDemo().main(argv)
