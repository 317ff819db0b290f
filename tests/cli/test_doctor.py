"""`resilient doctor`: what is wrong with an installation, a machine or a registry, and what helps."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from resilient.registry_server import RegistryServer
from resilient.registry_server.record import Record
from tests.commands import command, free_port


def findings(*words: str, environment: dict[str, str] | None = None) -> tuple[int, list[dict[str, str]]]:
    """What it found, and its exit status."""
    done = command("doctor", "--json", *words, environment=environment)
    assert done.stderr == ""
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["healthy"] is (done.returncode == 0)
    return done.returncode, document["findings"]


def about(found: list[dict[str, str]], subject: str) -> list[dict[str, str]]:
    """The findings on one subject."""
    return [one for one in found if one["about"] == subject]


def test_this_installation_is_well() -> None:
    """Every subject has a finding, none is wrong; all extras of the development set are there."""
    status, found = findings()
    assert status == 0
    subjects = {one["about"] for one in found}
    assert subjects >= {
        "python",
        "resilient-patterns",
        "import name",
        "dependencies",
        "event loop",
        "clock",
        "extra server",
    }
    assert {one["verdict"] for one in found} <= {"ok", "note", "warning"}
    assert about(found, "extra server")[0]["sentence"].startswith("starlette ")


def test_people_read_lines() -> None:
    """A mark, the subject, a sentence; the remedy below."""
    done = command("doctor")
    assert done.returncode == 0
    assert done.stdout.startswith("ok       python: ")
    assert all(line.startswith(("ok ", "note ", "warning ", "         -> ")) for line in done.stdout.splitlines())


@pytest.fixture
def other_place(tmp_path: Path) -> Path:
    """A directory for the path."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    return place


def test_ibms_client_beside_us_is_wrong(other_place: Path) -> None:
    """Both own `import resilient`: it says so, and what to do."""
    info = other_place / "resilient-51.0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: resilient\nVersion: 51.0.1\n")
    status, found = findings(environment={"PYTHONPATH": str(other_place)})
    assert status == 1
    clash = about(found, "import name")[0]
    assert clash["verdict"] == "wrong"
    assert "resilient 51.0.1 (IBM's SOAR client)" in clash["sentence"]
    assert "virtual environment" in clash["remedy"]


def test_a_second_module_of_our_name_is_told(other_place: Path) -> None:
    """A file resilient.py that stands on the path, behind us or before."""
    (other_place / "resilient.py").write_text("")
    code = f"import sys; sys.path.append({str(other_place)!r}); from resilient.cli import main; "
    code += "sys.exit(main(['doctor', '--json']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    found = json.loads(done.stdout)["findings"]
    assert about(found, "import name")[0]["verdict"] == "warning"
    assert str(other_place / "resilient.py") in about(found, "import name")[0]["sentence"]


def test_few_open_files_are_a_warning() -> None:
    """With how many there are and what a service needs."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))

    done = subprocess.run(
        [sys.executable, "-m", "resilient", "doctor", "--json"],
        capture_output=True, text=True, timeout=30, preexec_fn=few, check=False,
    )  # fmt: skip
    files = about(json.loads(done.stdout)["findings"], "open files")[0]
    assert files["verdict"] == "warning"
    assert "may open 128" in files["sentence"]
    assert "administrator" in files["remedy"]


def test_a_registry_that_answers_is_counted() -> None:
    """How fast, how many, and that its clock is ours."""
    with RegistryServer(auth=("ops", "secret")) as server:
        server.store.register(Record(app="SHOP", id="1", host="h", ip="i"))
        status, found = findings(f"eureka://ops:secret@127.0.0.1:{server.port}")
    assert status == 0
    assert "1 usable instances of 1 services" in about(found, "registry")[0]["sentence"]
    assert about(found, "clock")[-1]["sentence"].startswith("within 5 s of that of eureka://127.0.0.1:")
    assert "secret" not in json.dumps(found)


@pytest.mark.parametrize("url", ["nowhere", "eureka://", "static://"])
def test_a_url_that_is_wrong_is_a_finding(url: str) -> None:
    """The sentence of the library, exit status 1."""
    status, found = findings(url)
    assert status == 1
    assert about(found, "registry")[0]["verdict"] == "wrong"


@pytest.mark.parametrize("scheme", ["eureka", "consul"])
def test_an_unreachable_registry_is_a_finding(scheme: str) -> None:
    """What happened, and what to look at; one that is asked by name is asked for somebody."""
    status, found = findings(f"{scheme}://127.0.0.1:{free_port()}", "--timeout", "2")
    assert status == 1
    assert "does not answer" in about(found, "registry")[0]["sentence"]
    assert about(found, "registry")[0]["remedy"]


class YesterdaysRegistry(BaseHTTPRequestHandler):
    """An empty registry whose clock is a day behind."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        return "Thu, 01 Jan 2026 00:00:00 GMT"

    def do_GET(self) -> None:
        body = b'{"applications":{"versions__delta":"1","apps__hashcode":"","application":[]}}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815  # the name that http.server looks for

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def yesterday() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), YesterdaysRegistry)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_clock_that_differs_is_a_warning(yesterday: int) -> None:
    """Certificates and timestamps go by it."""
    status, found = findings(f"eureka://127.0.0.1:{yesterday}")
    assert status == 0
    clock = about(found, "clock")[-1]
    assert clock["verdict"] == "warning"
    assert "ahead of that of eureka://127.0.0.1" in clock["sentence"]
