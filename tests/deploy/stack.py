"""The stack file and the Dockerfile, read for tests."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
STACK: Final = DEPLOY / "docker-stack.yml"
OURS: Final = "${HOSPITAL_IMAGE:-hospital:1}"

document: dict[str, Any] = yaml.safe_load(STACK.read_text())
services: dict[str, dict[str, Any]] = document["services"]
hospital: dict[str, dict[str, Any]] = {name: one for name, one in services.items() if one["image"] == OURS}
"""The services that run our own image."""


def seconds(text: str) -> float:
    """A duration, as stack files have it."""
    return sum(
        float(number) * {"ms": 0.001, "s": 1.0, "m": 60.0}[unit]
        for number, unit in re.findall(r"([\d.]+)(ms|s|m)", text)
    )


def option(service: str, flag: str) -> str:
    """What stands behind `flag` on a service's command line."""
    command = [str(word) for word in services[service]["command"]]
    return command[command.index(flag) + 1]


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, continued lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split(maxsplit=1)[0], re.sub(r"\s+", " ", line.split(maxsplit=1)[1])) for line in lines]


def copied() -> list[tuple[Path, str]]:
    """(source in this project, target) of each COPY that does not come from another stage."""
    found = []
    for instruction, arguments in instructions():
        if instruction == "COPY" and not arguments.startswith("--from"):
            *sources, target = shlex.split(arguments)
            found += [(ROOT / source, target) for source in sources]
    return found
