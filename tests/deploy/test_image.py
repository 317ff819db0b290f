"""The image: what the Dockerfile copies runs with what it installs, and with nothing else."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from resilient.telemetry import Actuator, Health
from tests.deploy.stack import DEPLOY, ROOT, copied, hospital, instructions, services
from tests.gateway.serving import Served

_PIN = re.compile(r"^([a-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def pins(name: str) -> dict[str, str]:
    """(package, version) of a pinned set."""
    return dict(_PIN.findall((ROOT / "requirements" / f"{name}.txt").read_text()))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the image; what is not installed there can not be imported."""
    root = tmp_path_factory.mktemp("image")
    for source, target in copied():
        place = root / target.removeprefix("/")
        if source.is_dir():
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
    there = set(pins("deploy"))
    absent = {
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", one).lower() for one in distributions} & {*there, "resilient-patterns"}
    }
    (root / "block").mkdir()
    (root / "block" / "sitecustomize.py").write_text(
        "import sys\n"
        f"ABSENT = {sorted(absent)!r}\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ABSENT:\n"
        "            raise ModuleNotFoundError(f'{name} is not in the image', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    return root


def run(app: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m …` in the image."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(app / "block"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=app / "app",
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize("name", hospital)
def test_the_command_of_a_service_is_there_with_every_option(app: Path, name: str) -> None:
    """The module runs in the image, and `--help` knows each flag of the stack file."""
    command = [str(word) for word in services[name]["command"]]
    words = command[: next(at for at, word in enumerate(command) if word.startswith("--"))]
    done = run(app, *words, "--help")
    assert done.returncode == 0, done.stderr
    for flag in (word for word in command if word.startswith("--")):
        assert re.search(rf"{flag}\b", done.stdout), f"{flag} is no option of {words}"


def test_the_image_is_small_and_can_do_little() -> None:
    """Two stages, pinned by hashes, wheels only, a numbered user, no shell around the process."""
    found = instructions()
    named: dict[str, list[str]] = {}
    for instruction, arguments in found:
        named.setdefault(instruction, []).append(arguments)
    assert len(named["FROM"]) == 2
    assert re.fullmatch(r"PYTHON=3\.\d+-slim-\w+", named["ARG"][0])
    assert "--require-hashes" in named["RUN"][0]
    assert "--only-binary :all:" in named["RUN"][0]
    assert named["USER"] == ["10001:10001"]
    assert all(arguments.startswith("[") for key in ("ENTRYPOINT", "CMD") for arguments in named[key])
    assert named["HEALTHCHECK"]
    assert named["EXPOSE"] == ["8080"]
    order = [instruction for instruction, _ in found]
    assert order.index("USER") > max(at for at, word in enumerate(order) if word in {"RUN", "COPY"})


def test_what_is_copied_is_there_and_let_through() -> None:
    """The ignore file keeps everything else out of the build."""
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert lines[0] == "*"
    for source, _ in copied():
        assert source.exists(), source
        assert any(fnmatch.fnmatch(source.relative_to(ROOT).as_posix(), one) for one in allowed), source


def test_the_pins_of_the_image_are_those_that_were_tested() -> None:
    """The same versions as in the tests, each with its hashes."""
    tested, deployed = pins("dev"), pins("deploy")
    assert deployed
    assert {name: tested.get(name) for name in deployed} == deployed
    assert (ROOT / "requirements" / "deploy.txt").read_text().count("--hash=sha256:") >= len(deployed)


class Moods:
    """A process that is told how it is."""

    def __init__(self) -> None:
        self.ready = self.alive = False
        health = Health({"db": lambda: self.ready}, liveness={"loop": lambda: self.alive}, max_age=0)
        self.app = Starlette(routes=[Mount("/actuator", Actuator(health, metrics=False))])


def check(url: str, marker: Path) -> int:
    """The health check as Docker runs it, but for the place of its marker."""
    script = str(DEPLOY / "healthcheck.py")
    code = "import runpy, sys; sys.exit(runpy.run_path(sys.argv[1])['main'](*sys.argv[2:4], marker=sys.argv[4]))"
    told = [script, f"{url}/liveness", f"{url}/readiness", str(marker)]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, *told], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stderr == ""
    return done.returncode


def test_a_container_is_healthy_when_it_was_ready_once_and_lives(tmp_path: Path) -> None:
    """An update waits for readiness; later what is not ready lives, and what hangs is replaced."""
    moods: Any = Moods()
    marker = tmp_path / "was-ready"
    with Served(moods.app) as server:
        url = f"{server.url}/actuator/health"
        moods.alive = True
        assert check(url, marker) == 1
        moods.ready = True
        assert check(url, marker) == 0
        moods.ready = False
        assert check(url, marker) == 0
        moods.alive = False
        assert check(url, marker) == 1
    assert check(url, marker) == 1


def test_the_health_check_of_the_image_is_the_one_that_was_tested() -> None:
    """Both addresses, on the port that the stack file gives."""
    text = dict(instructions())["HEALTHCHECK"]
    assert "/app/healthcheck.py" in text
    assert re.findall(r"http://127\.0\.0\.1:8080/actuator/health/(\w+)", text) == ["liveness", "readiness"]
