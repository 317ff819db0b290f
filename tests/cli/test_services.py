"""`resilient services`: who can be called now, for people and for programs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient.registry_server import RegistryServer
from resilient.registry_server.record import Port, Record
from tests.commands import command, free_port


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        for number in (2, 1):
            server.store.register(
                Record(app="SHOP", id=f"shop-{number}", host=f"10.0.0.{number}", ip=f"10.0.0.{number}",
                       port=Port(8080, enabled=True), metadata={"zone": "a", "version": "3"})
            )  # fmt: skip
        server.store.register(Record(app="BOOK", id="b\x1b[31m", host="::1", ip="::1", port=Port(81, enabled=True)))
        server.store.register(Record(app="DOWN", id="d", host="h", ip="i", status="DOWN"))
        yield server


def test_the_table_has_who_can_be_called(registry: RegistryServer) -> None:
    """In order, aligned, without those that are down; what would speak to the terminal is spelled out."""
    done = command("services", registry.url)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["SERVICE", "ADDRESS", "ZONE", "WEIGHT", "ID", "METADATA"]
    assert lines[1].split()[:5] == ["book", "[::1]:81", "-", "1", r"b\x1b[31m"]
    assert lines[2].split() == ["shop", "10.0.0.1:8080", "a", "1", "shop-1", "version=3", "zone=a"]
    assert lines[3].split()[:2] == ["shop", "10.0.0.2:8080"]
    assert len(lines) == 4
    assert len({line.index(line.split()[1]) for line in lines}) == 1


def test_the_document_has_everything(registry: RegistryServer) -> None:
    """With `--json`, for one service by name, in any case."""
    done = command("services", registry.url, "--json", "--service", "SHOP")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert list(found["services"]) == ["shop"]
    first = min(found["services"]["shop"], key=lambda one: one["id"])
    assert first == {
        "service": "shop", "host": "10.0.0.1", "port": 8080, "id": "shop-1", "secure": False, "zone": "a",
        "weight": 1.0, "metadata": {"zone": "a", "version": "3"},
    }  # fmt: skip
    assert found["registry"].startswith("eureka://127.0.0.1:")


def test_the_url_may_come_from_the_environment() -> None:
    """As for the library."""
    done = command("services", environment={"RESILIENT_DISCOVERY": "static://db=10.0.0.5:5432"})
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].split()[:2] == ["db", "10.0.0.5:5432"]


def test_a_service_that_nobody_offers_is_a_failure(registry: RegistryServer) -> None:
    """Exit status 1 and a sentence; the others are listed all the same."""
    done = command("services", registry.url, "--service", "shop", "-s", "nobody")
    assert done.returncode == 1
    assert "10.0.0.1:8080" in done.stdout
    assert done.stderr.startswith("resilient: no instance of 'nobody' is known at eureka://127.0.0.1:")


def test_an_empty_registry_is_no_failure() -> None:
    """It says so on stderr; the document is empty, not missing."""
    with RegistryServer() as server:
        done = command("services", server.url)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "resilient: nobody is registered\n")
        assert json.loads(command("services", server.url, "--json").stdout)["services"] == {}


def test_a_registry_that_does_not_answer_is_one_sentence() -> None:
    """Exit status 1, what was tried and what happened, no traceback."""
    port = free_port()
    done = command("services", f"eureka://user:secret@127.0.0.1:{port}", "--timeout", "1")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"resilient: eureka://127.0.0.1:{port}/eureka does not answer: ")
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr


def test_a_registry_that_is_asked_by_name_says_so() -> None:
    """Instead of listing nothing."""
    done = command("services", "dns://{service}:8080", "--timeout", "0.2")
    assert done.returncode == 1
    assert "lists nothing by itself: name what to ask for with --service" in done.stderr


def test_wrong_credentials_are_told_from_an_outage() -> None:
    """The sentence has the 401."""
    with RegistryServer(auth=("ops", "right")) as server:
        done = command("services", f"eureka://ops:wrong@127.0.0.1:{server.port}", "--timeout", "2")
        assert done.returncode == 1
        assert "401" in done.stderr
        right = command("services", f"eureka://ops:right@127.0.0.1:{server.port}")
        assert right.returncode == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "which registry?"),
        (("localhost:8761",), "no scheme"),
        (("eurka://localhost:8761",), "did you mean 'eureka'?"),
        (("eureka://localhost:99999",), "no host or host:port"),
        (("eureka://localhost:8761?fetch=3",), "unknown option"),
        (("static://",), "names no instance"),
        (("eureka://localhost", "--timeout", "soon"), "seconds are a number more than 0, not 'soon'"),
        (("a", "b"), "unrecognized arguments: b"),
    ],
)
def test_what_is_not_understood_is_one_sentence(words: tuple[str, ...], text: str) -> None:
    """Exit status 2, no traceback."""
    done = command("services", *words)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_whoever_stops_reading_is_no_error(registry: RegistryServer) -> None:
    """`resilient services … | head -0` leaves no traceback, and says by its exit status that the pipe broke."""
    writing = subprocess.Popen(
        [sys.executable, "-m", "resilient", "services", registry.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert writing.stdout is not None
    assert writing.stderr is not None
    writing.stdout.close()
    errors = writing.stderr.read()
    writing.stderr.close()
    assert writing.wait(20) == 141
    assert errors == b""


def test_a_terminal_without_umlauts_gets_them_spelled_out(tmp_path: Path) -> None:
    """An encoding that lacks a letter is no traceback."""
    path = tmp_path / "services.json"
    path.write_text(json.dumps({"café": [{"host": "10.0.0.1", "port": 80, "zone": "zürich"}]}))
    done = command("services", f"file://{path}", environment={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert r"z\xfcrich" in done.stdout


@pytest.mark.parametrize("name", ["registry", "services", "watch", "run", "doctor"])
def test_every_command_explains_itself(name: str) -> None:
    """Its options, examples and what its exit status means."""
    done = command(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "exit status: " in done.stdout
    assert "examples:\n  " in done.stdout
    assert "--json" in done.stdout
