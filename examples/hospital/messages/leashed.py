"""Run a command that ends when whoever started it ends: `python -m examples.hospital.messages.leashed COMMAND…`.

The parent keeps the other end of our standard input. When it goes away, whatever way, even by `kill -9`, the system
closes that end, and we stop the command. When the command ends first, however, we end with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

_GRACE = 4.0  # seconds to stop in peace


def _stop_when_alone(command: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):  # not sys.stdin: its lock may not be held by a daemon thread when Python ends
        pass
    command.send_signal(signal.SIGCONT)  # else a frozen one would not hear us
    command.terminate()
    try:
        command.wait(_GRACE)
    except subprocess.TimeoutExpired:
        command.kill()


def main() -> int:
    """Run what the arguments say; the exit status is the command's."""
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)  # noqa: S603  # whoever starts us says what
    threading.Thread(target=_stop_when_alone, args=(command,), name="leash", daemon=True).start()
    return command.wait()


if __name__ == "__main__":
    sys.exit(main())
