"""How a demo begins: quietly, and with a sentence when something is not installed."""

from __future__ import annotations

import importlib
import importlib.util
import signal
import sys
from collections.abc import Iterable


def begin(demo: str, *, needed: Iterable[str], command: str) -> int:
    """Run the demo of that module, or say what is missing; the exit status.

    Args:
        demo: a module with a function `main`.
        needed: the packages that it imports.
        command: what installs them.
    """
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))  # quiet from the first moment; the demo takes over
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(f"demo: there is no {' and no '.join(missing)} here; `{command}` installs it", file=sys.stderr)
        return 1
    status: int = importlib.import_module(demo).main()
    return status
