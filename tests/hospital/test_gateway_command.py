"""The gateway and the services as commands: what is wrong with their arguments is one sentence, and status 2."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from examples.hospital.gateway import ROUTES

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = ("--registry", "eureka://127.0.0.1:9")


def refused(module: str, *arguments: str) -> str:
    """What a command says that does not start."""
    done = subprocess.run(
        [sys.executable, "-m", f"examples.hospital.{module}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('service = "ward"', 'service = "wrad"', "the hospital has no service 'wrad'; did you mean 'ward'?"),
        ('service = "ward"', 'servce = "ward"', "routes.ward.servce: there is no setting 'servce'; did you mean"),
        ("timeout = 2.0", "timeout = -1", "defaults.timeout: must be"),
        ("forward:/fallback/ward", "forward:/fallback/wrad", "no handler is registered at '/fallback/wrad'"),
        ("[defaults]", "[defaults", "is no TOML"),
    ],
    ids=["unknown service", "unknown setting", "out of range", "unknown fallback", "no TOML"],
)
def test_a_wrong_route_file_is_explained(tmp_path: Path, before: str, after: str, said: str) -> None:
    """The place and the mistake are named, and often what was meant; nothing is started."""
    text = ROUTES.read_text()
    assert before in text
    routes = tmp_path / "routes.toml"
    routes.write_text(text.replace(before, after))
    assert said in refused("gateway", *REGISTRY, "--routes", str(routes))


def test_a_route_file_that_is_not_there(tmp_path: Path) -> None:
    """It is named."""
    assert "nowhere.toml can not be read" in refused("gateway", *REGISTRY, "--routes", str(tmp_path / "nowhere.toml"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:////nowhere/patient.db", "unable to open database file"),
        ("nonsense", "must be like 'sqlite:///patient.db'"),
        ("dbase://x", "there is no database of the kind 'dbase'"),
    ],
)
def test_a_database_that_can_not_be_used(url: str, said: str) -> None:
    """A service without its database does not start."""
    assert said in refused("patient", *REGISTRY, "--database", url)


@pytest.mark.parametrize("module", ["gateway", "ward"])
def test_a_port_that_is_taken(tmp_path: Path, module: str) -> None:
    """It is one sentence, as every other mistake."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        database = ("--database", f"sqlite:///{tmp_path / 'x.db'}") if module == "ward" else ()
        said = refused(module, *REGISTRY, *database, "--port", port)
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in said


@pytest.mark.parametrize("option", ["--database", "--broker"])
def test_a_password_in_an_address_that_can_not_be_used_is_not_shown(option: str) -> None:
    """Error output ends up in logs."""
    said = refused("reception", *REGISTRY, option, "nonsense//ann:s3cret@host:9")
    assert "host:9" in said
    assert "s3cret" not in said


def test_an_address_that_is_none_of_a_registry() -> None:
    """It is quoted, with what would be one."""
    assert "'nonsense' has no scheme" in refused("ward", "--registry", "nonsense")
