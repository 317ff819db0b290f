"""The README and the documents are true: their code runs, their commands exist, their links lead somewhere."""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Iterator
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.tables import tables
from resilient.discovery import Registry
from tests.docs.test_docstrings import PUBLIC_ROOMS
from tests.servers import RegistryProcess

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    *(found for room in ("docs", "examples", "deploy") for found in sorted((ROOT / room).glob("**/*.md"))),
]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


class Producer(BaseHTTPRequestHandler):
    """The service that the documents call."""

    def do_GET(self) -> None:
        body = b'{"temperature": 18.5}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def registry_address() -> Iterator[str]:
    """A real registry in which a real `producer` is registered."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Producer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with (
            RegistryProcess() as registry,
            Registry.from_url(registry.url) as client,
            client.register("producer", port=server.server_port, host="127.0.0.1"),
        ):
            yield registry.url.removeprefix("eureka://")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_code_of_a_document_runs(document: Path, registry_address: str) -> None:
    """All Python blocks of a document, one after the other, against a real registry with a real service."""
    text = document.read_text()
    namespace: dict[str, object] = {"__name__": f"doc_{document.stem}"}
    for number, block in enumerate(blocks(text, "python"), 1):
        code = block.replace("localhost:8761", registry_address)
        exec(compile(code, f"{document.name}, block {number}", "exec"), namespace)


def test_the_makefile_has_every_command_that_the_documents_name() -> None:
    """`make x` in a document is a target."""
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {
        word
        for path in DOCUMENTS
        for word in re.findall(r"`make ([a-z-]+)[` <]|^make ([a-z-]+)", path.read_text(), flags=re.MULTILINE)
        for word in word
        if word
    }
    assert named
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_what_is_there(document: Path) -> None:
    """A relative link is a path in this project, and what follows a `#` is a heading there."""
    for target, heading in re.findall(r"\]\((?!https?:|mailto:)([^)#]*)(?:#([^)]+))?\)", document.read_text()):
        file = document.parent / target if target else document
        assert file.exists(), target
        assert not heading or heading in anchors(file), f"{target}#{heading}"


def anchors(document: Path) -> set[str]:
    """What its headings are called in links: lower case, hyphens for spaces, no other signs."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS[1:], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_document_can_be_reached_from_the_readme(document: Path) -> None:
    """By links, over other documents."""
    seen, ahead = set[Path](), [ROOT / "README.md"]
    while ahead:
        here = ahead.pop().resolve()
        if here not in seen and here.suffix == ".md":
            seen.add(here)
            ahead += [here.parent / target for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", here.read_text())]
    assert document.resolve() in seen


def test_every_public_name_stands_in_a_document() -> None:
    """Who reads a name in code finds what it is for."""
    words = set(re.findall(r"\w+", "".join(path.read_text() for path in DOCUMENTS)))
    rooms = [importlib.import_module(room) for room in PUBLIC_ROOMS]
    assert [f"{room.__name__}.{name}" for room in rooms for name in room.__all__ if name not in words] == []


def test_every_module_has_a_room_in_the_architecture() -> None:
    """The map names each module at the top of the package, `gate*` all those that begin so."""
    told = (ROOT / "docs" / "architecture.md").read_text().split("## The rooms")[1].split("## ")[0]
    rooms = [word.rstrip("/") for word in re.findall(r"[\w*]+/?", told)]
    modules = [path.stem for path in (ROOT / "src" / "resilient").iterdir() if path.stem[0] not in "_."]
    assert [name for name in modules if name != "py" and not any(fnmatch(name, room) for room in rooms)] == []


def test_the_tables_of_benchmarks_that_the_documents_name_are_there() -> None:
    """`python -m benchmarks NAME` prints something."""
    titles = [table.title.lower() for table in tables()]
    command = re.compile(r"python -m benchmarks (?:\"([^\"]+)\"|(\w+))")
    named = {"".join(found).lower() for path in DOCUMENTS for found in command.findall(path.read_text())}
    assert named
    assert [name for name in named if not any(name in title for title in titles)] == []


def test_every_test_says_what_it_holds() -> None:
    """A one-sentence docstring on each test function: the suite reads as a specification."""
    function = re.compile(r"^ *(?:async )?def (test_\w+)\([^#]*?\) -> None:\n\s*(.{3})", flags=re.MULTILINE | re.DOTALL)
    silent = [
        f"{path.name}::{match.group(1)}"
        for path in sorted((ROOT / "tests").glob("**/test_*.py"))
        for match in function.finditer(path.read_text())
        if match.group(2) not in {'"""', 'r""'}
    ]
    assert silent == []
