"""Prometheus for the hospital, where it is installed: finds everybody by the registry, and tells who scales.

python -m examples.hospital.monitoring.prometheus --registry http://127.0.0.1:8761 --alerts 127.0.0.1:9093
"""

from __future__ import annotations

import argparse
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from examples.hospital.monitoring.configuration import configuration

_NO_COMMAND, _NO_START = 127, 1
_START: Final = 20.0  # seconds; it takes half a second
_STOP: Final = 3.0  # seconds to write down what it has


def command(folder: Path, text: str, address: str) -> list[str]:
    """What to run, with `text` as its configuration and its data in `folder`, listening at `address`."""
    path = folder / "prometheus.yml"
    path.write_text(text)
    return [
        "prometheus",
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--rules.alert.resend-delay=1s",  # who scales hears at once that it is over
    ]


def free_address() -> str:
    """Where nobody listens at the moment: Prometheus does not say which port it took for 0."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def is_ready(address: str) -> bool:
    """Whether it answers."""
    asking = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with asking.open(f"http://{address}/-/ready", timeout=2.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError):  # 503 is an HTTPError, which is a URLError
        return False


def run(text: str, address: str) -> int:
    """Run it until SIGTERM; its exit status."""
    if shutil.which("prometheus") is None:
        print("prometheus is not installed (Debian: apt-get install prometheus)", file=sys.stderr)
        return _NO_COMMAND
    with tempfile.TemporaryDirectory(prefix="hospital-prometheus-") as folder:
        asked = threading.Event()
        process: subprocess.Popen[bytes] | None = None

        def stop(_number: int, _frame: FrameType | None) -> None:
            asked.set()
            if process is not None:
                process.terminate()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)  # first, else it would outlive us
        process = subprocess.Popen(command(Path(folder), text, address), stderr=subprocess.STDOUT)  # noqa: S603  # ours
        try:
            if asked.is_set() or not _wait_until_ready(process, address):
                return _NO_START
            print(f"prometheus listening on http://{address}", flush=True)
            while process.poll() is None and not asked.wait(0.2):
                pass
            return 0 if asked.is_set() else process.returncode
        finally:
            _end(process)


def _wait_until_ready(process: subprocess.Popen[bytes], address: str) -> bool:
    deadline = time.monotonic() + _START
    while process.poll() is None and time.monotonic() < deadline:
        if is_ready(address):
            return True
        time.sleep(0.05)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Run it as a process."""
    parser = argparse.ArgumentParser(prog="prometheus", description=__doc__.partition("\n")[0])
    parser.add_argument("--registry", required=True, metavar="URL", help="http://host:port of the registry")
    parser.add_argument("--also", action="append", default=[], metavar="HOST:PORT", help="who is not in it")
    parser.add_argument("--alerts", metavar="HOST:PORT", help="who gets the alerts (default: nobody)")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between scrapes (%(default)s)")
    parser.add_argument("--port", type=int, help="where to listen (default: any free port)")
    arguments = parser.parse_args(argv)
    text = configuration(
        registry=arguments.registry,
        others=arguments.also,
        receiver=arguments.alerts,
        interval=arguments.interval,
    )
    return run(text, f"127.0.0.1:{arguments.port}" if arguments.port else free_address())


if __name__ == "__main__":
    sys.exit(main())
