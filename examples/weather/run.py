"""Start the weather application and take the tour: `make demo`, or `python examples/weather/run.py`."""

from __future__ import annotations

import sys
from pathlib import Path

_NEEDED = ("resilient", "starlette", "uvicorn", "jinja2", "httpx")


def main() -> int:
    """Run the demo; the exit status."""
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from examples.support.beginning import begin

    return begin("examples.weather.demo", needed=_NEEDED, command="make demo")


if __name__ == "__main__":
    sys.exit(main())
