"""Run a module that ends when whoever started it ends: `python -m examples.support.leash MODULE ARGUMENTS…`.

The parent keeps the other end of our standard input. When it goes away, whatever way, even by `kill -9`, the system
closes that end, and we ask ourselves to stop. So a demo that was killed leaves nothing running, on every POSIX system.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

_GRACE = 4.0  # seconds to stop in peace


def _stop_when_alone() -> None:
    while os.read(0, 1024):  # not sys.stdin: its lock may not be held by a daemon thread when Python ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(1)


def main() -> None:
    """Become the module that the first argument names."""
    del sys.argv[0]
    threading.Thread(target=_stop_when_alone, name="leash", daemon=True).start()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
