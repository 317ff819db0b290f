"""Start the hospital and take the tour: `make demo-hospital`, or `python examples/hospital/run.py`."""

from __future__ import annotations

import sys
from pathlib import Path

_NEEDED = (
    "resilient",
    "starlette",
    "uvicorn",
    "httpx",
    "sqlalchemy",
    "aiosqlite",
    "nats",
    "prometheus_client",
    "hdrh",
    "rich",
    "plotext",
)


def main() -> int:
    """Run the demo; the exit status."""
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from examples.support.beginning import begin

    return begin("examples.hospital.demo", needed=_NEEDED, command="make demo-hospital")


if __name__ == "__main__":
    sys.exit(main())
