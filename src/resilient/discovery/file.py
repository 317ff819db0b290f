"""Instances in a file that somebody else keeps: `file:///etc/services.json`, noticed when it is replaced."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.discovery.instance import Known
from resilient.discovery.live import LiveDiscovery
from resilient.discovery.plain import read_services
from resilient.discovery.roster import Roster
from resilient.discovery.servers import Servers
from resilient.discovery.source import Doubt, Source, told_once
from resilient.discovery.steps import Answer, Exchange, Send, Server
from resilient.discovery.url_parts import one_of, read_url, seconds, wrong
from resilient.errors import ConfigError

OPTIONS = {"poll": (2.0, seconds(0.05, 3600)), "format": (None, one_of("json", "yaml"))}
_MOST = 64 * 2**20  # bytes; a list of 100,000 instances has 20 MB
_UNCHANGED = 304  # HTTP's word for it


class FileDiscovery(LiveDiscovery):
    """Instances in a JSON or YAML file, looked at every few seconds.

    `{"producer": [{"host": "10.0.0.1", "port": 8080, "zone": "a", "weight": 2, "metadata": {}}, "10.0.0.2:8080"]}`; an
    instance that can not be read is skipped and told in the log. A file that is replaced by renaming another one, or
    by a symbolic link that moves (as Kubernetes does with a ConfigMap), is noticed, one that is written in place too.
    While it is away or no JSON, what was known stays known and one warning says why. A list that lost half of its
    instances or more is believed at the second look.

    Args:
        url: `file:///absolute/path.json?poll=2`; options: `poll`, seconds between looks, 0.05 … 3,600, default 2;
            `format`, json or yaml, default by the name's end (.yaml and .yml: YAML, which needs the extra `yaml`).
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when the URL or an option is wrong, or YAML is not installed. A file that is not there is none.

    Safe for threads and event loops. Reading blocks the event loop for a moment: keep the file on a local disk.

    Example:
        >>> import pathlib, tempfile
        >>> from resilient.discovery import Discovery
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "services.json")
        ...     _ = path.write_text('{"producer": ["10.0.0.1:8080"]}')
        ...     with Discovery.from_url(f"file://{path}") as discovery:
        ...         discovery.wait("producer")[0].host
        '10.0.0.1'
    """

    def __init__(self, url: str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        where = read_url(url, OPTIONS)
        if where.hosts not in {(), ("localhost",)} or not where.path:
            wrong("file", "write the absolute path after three slashes: file:///etc/services.json")
        path = f"/{where.path}"
        yaml = (where.options["format"] or path.rpartition(".")[2].lower()) in {"yaml", "yml"}
        server = Server(f"file://{quote(path)}")
        servers = Servers((server,), server.base, clock, 0.0)
        super().__init__(servers, clock, (partial(FileWire, path), partial(AsyncFileWire, path)))
        self._sources = (FileSource(servers, self._roster, where.options["poll"], clock, _reader(yaml=yaml)),)


class FileSource(Source):
    """The job that looks at the file."""

    def __init__(
        self, servers: Servers, roster: Roster, poll: float, clock: Clock, read: Callable[[bytes], object]
    ) -> None:
        super().__init__(servers, roster, poll, clock)
        self._parse = read
        self._doubt = Doubt()
        self._read: Known = {}
        self._wrong = "it was not read yet"
        self._tell = told_once(f"{servers.name}: skipped")

    def _look(self) -> Exchange[None]:
        answer = yield from self._servers.ask("READ", "", self._accept, read=True)
        if answer.error:
            self._next = self._started + self._interval  # local and cheap: no reason to wait longer
        elif self._doubt.believes(self._roster.count, sum(map(len, self._read.values()))):
            self._roster.replace(self._read)
            self._again()
        else:
            self._confirm()

    def _accept(self, answer: Answer) -> str:
        if not answer.good and answer.status != _UNCHANGED:
            self._wrong = str(answer)
        elif answer.good:
            try:
                self._read, problems = read_services(self._parse(answer.body))
            except (ValueError, RecursionError) as error:
                self._wrong = str(error).partition("\n")[0]
            else:
                self._wrong = ""
                self._tell(problems)
        return self._wrong


class FileWire:
    """Reads the file when it is another one than before, or was written to; else answers 304.

    Args:
        path: absolute.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    def send(self, step: Send) -> Answer:
        """The content, 304, or why there is none."""
        try:
            before = os.stat(self._path)  # noqa: PTH116  # of the file that a symbolic link leads to now
            if not stat.S_ISREG(before.st_mode) or before.st_size > _MOST:
                self._seen = None
                return Answer(error=f"it is no regular file of at most {_MOST >> 20} MB")
            if _signature(before) == self._seen:
                return Answer(_UNCHANGED)
            with open(self._path, "rb") as file:  # noqa: PTH123  # one call, no object
                body = file.read(_MOST)
                after = os.fstat(file.fileno())
        except OSError as error:
            self._seen = None
            return Answer(error=error.strerror or str(error))
        # Written to while it was read: the next look reads it again.
        self._seen = _signature(after) if _signature(before) == _signature(after) else None
        return Answer(200, body)

    def close(self) -> None:
        """Nothing is open between looks."""


class AsyncFileWire(FileWire):
    """The same for an event loop: a look at a local disk is shorter than a thread would take to start."""

    async def send(self, step: Send) -> Answer:  # type: ignore[override]  # the other colour
        """The content, 304, or why there is none."""
        return super().send(step)

    async def aclose(self) -> None:
        """Nothing is open between looks."""


def _signature(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_mtime_ns, found.st_size, found.st_ino


def _reader(*, yaml: bool) -> Callable[[bytes], object]:
    if not yaml:
        return json.loads
    try:
        import yaml as library
    except ImportError as error:
        raise ConfigError(
            "file:// URL: a YAML file needs PyYAML: pip install 'resilient-patterns[yaml]'", path="url"
        ) from error

    def read(body: bytes) -> Any:
        try:
            return library.safe_load(body)
        except library.YAMLError as error:
            raise ValueError(" ".join(str(error).split())) from error

    return read
