"""`resilient watch`: a line for each that comes, changes or goes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from resilient.registry_server import RegistryServer
from resilient.registry_server.record import Port, Record
from tests.commands import Started, command, free_port
from tests.servers import RegistryProcess


def record(name: str, host: str = "10.0.0.1", **said: object) -> Record:
    """An instance of `shop`."""
    return Record(app="SHOP", id=name, host=host, ip=host, port=Port(80, enabled=True), **said)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_comes_changes_and_goes_has_a_line(number: signal.Signals) -> None:
    """Begins with who is there; ends quietly when it is asked to."""
    with RegistryServer() as server, Started("watch", server.url, "--interval", "1") as watching:
        server.store.register(record("a", metadata={"zone": "z1"}))
        watching.says("+ shop  10.0.0.1:80  zone z1  a\n")
        server.store.register(record("b", "10.0.0.2"))
        watching.says("+ shop  10.0.0.2:80  b\n")
        server.store.register(record("a", "10.0.0.9"))
        watching.says("~ shop  10.0.0.9:80  a\n")
        server.store.cancel("SHOP", "b")
        watching.says("- shop  10.0.0.2:80  b\n")
        watching.send(number)
        assert watching.ends() == 0
        assert watching.err() == ""
        assert all(line[2] == ":" for line in watching.out().splitlines())


def test_for_programs_each_line_is_a_document() -> None:
    """With `--json`; services that were not asked for are left out."""
    with (
        RegistryServer() as server,
        Started("watch", server.url, "--json", "-s", "shop", "--interval", "1") as watching,
    ):
        server.store.register(Record(app="OTHER", id="o", host="h", ip="i"))
        server.store.register(record("a"))
        watching.says('"id": "a"')
        server.store.cancel("SHOP", "a")
        watching.says('"event": "removed"')
        found = [json.loads(line) for line in watching.out().splitlines()]
        assert [(one["event"], one["service"], one["host"]) for one in found] == [
            ("added", "shop", "10.0.0.1"),
            ("removed", "shop", "10.0.0.1"),
        ]
        assert found[0]["time"] < found[1]["time"]


def test_a_registry_that_is_down_is_waited_for() -> None:
    """One line when it goes, one when it is back; not a line for each look."""
    with RegistryProcess() as registry:
        port = registry.port
        registry.kill()
        with Started("watch", registry.url, "--interval", "1") as watching:
            watching.says(f"! eureka://127.0.0.1:{port}/eureka does not answer: ")
            registry.start()
            watching.says(f"! eureka://127.0.0.1:{port}/eureka answers again")
            assert watching.out().count("!") == 2


def test_a_file_and_a_list_are_watched_too(tmp_path: Path) -> None:
    """Whatever `from_url` knows."""
    path = tmp_path / "services.json"
    path.write_text('{"db": ["10.0.0.5:5432"]}')
    with Started("watch", f"file://{path}?poll=0.1") as watching:
        watching.says("+ db  10.0.0.5:5432")
        path.write_text('{"db": ["10.0.0.5:5432", "10.0.0.6:5432"]}')
        watching.says("+ db  10.0.0.6:5432")
    with Started("watch", "static://db=10.0.0.7:5432") as watching:
        watching.says("+ db  10.0.0.7:5432")


@pytest.mark.parametrize("words", [("nowhere",), ("eureka://",), ("eureka://h", "--interval", "0"), ()])
def test_what_is_not_understood_is_refused(words: tuple[str, ...]) -> None:
    """Exit status 2, one sentence."""
    done = command("watch", *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_an_unreachable_registry_leaves_no_traceback() -> None:
    """It goes on looking until it is ended."""
    with Started("watch", f"eureka://127.0.0.1:{free_port()}") as watching:
        watching.says("does not answer")
        watching.send(signal.SIGINT)
        assert watching.ends() == 0
        assert "Traceback" not in watching.err() + watching.out()
