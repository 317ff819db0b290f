"""Start the weather application and take the tour: `make demo`, or `python examples/weather/run.py`."""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path

_NEEDED = ("resilient", "starlette", "uvicorn", "jinja2", "httpx")


def main() -> int:
    """Run the demo, or say what is missing; the exit status."""
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))  # quiet from the first moment; the demo takes over
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"demo: there is no {' and no '.join(missing)} here; `make demo` installs it", file=sys.stderr)
        return 1
    from examples.weather import demo

    return demo.main()


if __name__ == "__main__":
    sys.exit(main())
