"""Instances in a file: how it may be replaced, what may stand in it, and what is wrong with it in words."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest

from resilient import ConfigError, NoInstanceError
from resilient.discovery import Discovery, Instance, Registry
from resilient.discovery.file import FileWire
from resilient.discovery.plain import read_instance, read_services, write_instance
from resilient.discovery.source import Doubt
from resilient.discovery.steps import Send, Server
from tests.waiting import wait_until


def hosts(found: Discovery, service: str = "producer") -> list[str]:
    return [instance.host for instance in found.instances(service)]


def wire_of(path: Path) -> FileWire:
    return FileWire(str(path))


STEP = Send(Server("file:///x"), "READ", "", 1.0, read=True)


def test_everything_an_instance_has_can_be_written_and_missing_and_unknown_fields_are_no_mistake(
    tmp_path: Path,
) -> None:
    """Numbers may be text, one object may stand where a list belongs, names are in any case."""
    path = tmp_path / "services.json"
    path.write_text(
        '{"Producer": [{"host": "a", "port": "80", "zone": "z", "weight": "2", "secure": true, "metadata": {"k": 1},'
        ' "x": 0}, "[::1]:81"], "other": {"host": "b", "port": 82}, "nobody": []}'
    )
    with Discovery.from_url(f"file://localhost{path}") as found:
        first, second = found.wait("PRODUCER")
        assert first == Instance("producer", "a", 80, "a:producer:80", secure=True, zone="z", weight=2.0)
        assert first.metadata == {"k": "1"}
        assert (second.host, second.port) == ("::1", 81)
        assert hosts(found, "other") == ["b"]
        with pytest.raises(NoInstanceError, match="lists other, producer"):
            found.wait("nobody", timeout=0.1)


def test_yaml_by_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name's end or by option; without PyYAML a sentence says what to install."""
    for name, option in (("services.yaml", ""), ("services.yml", ""), ("services.conf", "?format=yaml")):
        path = tmp_path / name
        path.write_text("producer:\n  - a:1\n  - host: b\n    port: 2\n")
        with Discovery.from_url(f"file://{path}{option}") as found:
            assert [instance.host for instance in found.wait("producer")] == ["a", "b"]
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match=r"pip install 'resilient-patterns\[yaml\]'"):
        Discovery.from_url("file:///x.yaml")


def test_yaml_that_is_none_is_told_in_words(tmp_path: Path) -> None:
    """One line, with its place."""
    path = tmp_path / "services.yaml"
    path.write_text("producer: [a:1\nother: }")
    with (
        Discovery.from_url(f"file://{path}") as found,
        pytest.raises(NoInstanceError, match=r"has not answered.*line \d"),
    ):
        found.wait("producer", timeout=0.3)


def test_a_config_map_that_moves_its_symbolic_link_is_noticed(tmp_path: Path) -> None:
    """Kubernetes writes a new folder and moves the link `..data` to it; the file itself is a link through it."""
    for number in (1, 2):
        folder = tmp_path / f"..{number}"
        folder.mkdir()
        (folder / "services.json").write_text(f'{{"producer": ["h{number}:1"]}}')
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "services.json").symlink_to("..data/services.json")
    with Discovery.from_url(f"file://{tmp_path}/services.json?poll=0.05") as found:
        assert found.wait("producer")[0].host == "h1"
        (tmp_path / "..data_tmp").symlink_to("..2")
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")
        wait_until(lambda: hosts(found) == ["h2"], what="the new list")


def test_only_a_file_that_changed_is_read(tmp_path: Path) -> None:
    """By time of change, size and inode."""
    path = tmp_path / "services.json"
    path.write_text("{}")
    wire = wire_of(path)
    assert [wire.send(STEP).status for _ in range(2)] == [200, 304]
    path.write_text('{"a": []}')
    assert wire.send(STEP).body == b'{"a": []}'
    kept = path.stat().st_mtime_ns
    fresh = tmp_path / "fresh"
    fresh.write_text('{"b": []}')
    os.utime(fresh, ns=(kept, kept))
    fresh.replace(path)
    assert wire.send(STEP).body == b'{"b": []}'


def test_what_is_no_file_is_told_in_words(tmp_path: Path) -> None:
    """A folder, a pipe that would block whoever opens it, nothing at all."""
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "no regular file"),
        (tmp_path / "pipe", "no regular file"),
        (tmp_path / "x", "No such"),
    ):
        assert words in wire_of(path).send(STEP).error


def test_a_file_that_breaks_and_vanishes_keeps_what_was_known_and_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However often it is looked at; a good one counts at once."""
    path = tmp_path / "services.json"
    path.write_text('{"producer": ["a:1"]}')
    with caplog.at_level(logging.INFO, "resilient"), Discovery.from_url(f"file://{path}?poll=0.05") as found:
        found.wait("producer")
        path.write_text("[]")
        wait_until(lambda: found.age("producer") > 0.3, what="an older answer")
        assert hosts(found) == ["a"]
        path.unlink()
        wait_until(lambda: found.age("producer") > 0.6, what="an older answer")
        assert hosts(found) == ["a"]
        path.write_text('{"producer": ["a:1", "b:1"]}')
        wait_until(lambda: hosts(found) == ["a", "b"], what="the new list")
    lines = [record.getMessage() for record in caplog.records]
    (down,) = (line for line in lines if "is down" in line)
    assert down.startswith(f"registry file://{path} is down: file://{path}: it must be an object of services")
    assert sum("is back" in line for line in lines) == 1


def test_every_instance_that_can_not_be_read_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Which and why; the others are used, duplicates once."""
    services, problems = read_services(
        {
            "p": ["a:1", "a:1", "a:1?weight=2", {"port": 1}, {"host": "b", "port": True}, 7, {"host": "b", "port": 1}],
            " ": ["c:1"],
        }
    )
    assert [instance.host for instance in services["p"]] == ["a", "b"]
    assert problems == [
        "p[2]: 'a:1?weight=2' is no host:port (port 1 to 65535)",
        "p[3]: host must be an address or a name, not None",
        "p[4]: port must be from 1 to 65535, not True",
        "p[5]: an instance is 'host:port' or an object with host and port, not 7",
        "a service has no name",
    ]


def test_an_instance_survives_being_written() -> None:
    """What is written is what is read."""
    one = Instance("p", "::1", 1, "i", secure=True, zone="z", weight=0.5, metadata={"k": "v"})
    assert read_instance("p", write_instance(one)) == one


def test_half_a_list_is_believed_at_the_second_look() -> None:
    """A registry that restarts lists few for a moment; what is not so few is believed at once."""
    doubt = Doubt()
    assert [doubt.believes(4, after) for after in (3, 2, 2)] == [True, False, True]
    assert [doubt.believes(4, after) for after in (0, 4, 0, 0)] == [False, True, False, True]
    assert doubt.believes(0, 0)


@pytest.mark.parametrize(
    ("url", "words", "path"),
    [
        ("file://", "write the absolute path after three slashes", "url"),
        ("file://services.json", "write the absolute path after three slashes", "url"),
        ("file://host/x", "write the absolute path after three slashes", "url"),
        ("file:///x?pol=1", "unknown option 'pol'; known are poll, format; did you mean 'poll'", "url.pol"),
        ("file:///x?poll=fast", "poll must be from 0.05 to 3600 seconds, not 'fast'", "url.poll"),
        ("file:///x?format=toml", "format must be json or yaml, not 'toml'", "url.format"),
    ],
)
def test_a_wrong_url_is_refused_in_words(url: str, words: str, path: str) -> None:
    """What is wrong, where, and what is allowed."""
    with pytest.raises(ConfigError, match=words) as caught:
        Discovery.from_url(url)
    assert caught.value.path == path


def test_nothing_can_be_registered_in_a_file() -> None:
    """Somebody else keeps it."""
    with pytest.raises(ConfigError, match="nothing can be registered"):
        Registry.from_url("file:///x")
