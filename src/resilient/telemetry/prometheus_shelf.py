"""Files in which the processes of one server keep what they have to say, and from which any of them reads it all."""

from __future__ import annotations

import json
import os
import secrets
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

from resilient.clock import REAL_CLOCK

Entry: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""(name of a sample, its labels)."""
Family: TypeAlias = tuple[str, str, str]
"""(name of a metric, its help, its type)."""
Document: TypeAlias = list[tuple[Family, list[tuple[str, dict[str, str], float]]]]
"""The samples of each metric, as JSON has them: there tuples are lists."""

_PATIENCE: Final = 5.0  # seconds for the lock; it is held for some milliseconds


class Shelf:
    """One file per process and group, and one for those that have died.

    `GROUP.ID.json` is what a process says, replaced as a whole; on `GROUP.ID.lock` it holds a lock while it lives. Who
    reads adds up the counters of those that have died in `GROUP.dead.json`, and takes their files away. All that reads
    or takes away holds the lock of `GROUP.lock`, so nobody is counted twice, or not at all.

    Args:
        folder: where; made when it is not there.
        group: what belongs together.

    Raises:
        OSError: when the folder can not be written to.
    """

    def __init__(self, folder: Path, group: str) -> None:
        self._folder = folder
        self._group = group
        folder.mkdir(parents=True, exist_ok=True)
        self._id = ""
        self._enter()

    def write(self, document: Document) -> None:
        """Replace what this process says; by one thread at a time."""
        if not self._id:
            self._enter()
        path = self._path(self._id, "json")
        new = path.with_suffix(".new")
        new.write_text(json.dumps(document), encoding="utf-8")
        new.replace(path)

    def read(self) -> list[Document]:
        """What all say that live, and what those had counted that do not."""
        with self._alone():
            living: list[str] = []
            dead: list[str] = []
            for path in sorted(self._folder.glob(f"{self._group}.*.lock")):
                other = path.name.removeprefix(f"{self._group}.").removesuffix(".lock")
                (living if other == self._id or _is_locked(path) else dead).append(other)
            if dead:
                self._bury(dead)
            found = [self._load(other) for other in living]
            return [self._graves()["metrics"], *(document for document in found if document is not None)]

    def after_fork_in_child(self) -> None:
        """The file and its lock are the parent's; this process gets its own when it first writes."""
        if self._id and self._leaving.detach():
            os.close(self._held)  # else the parent would seem to live as long as we do
        self._id = ""

    def _enter(self) -> None:
        mine = f"{os.getpid()}-{secrets.token_hex(4)}"  # a process id comes again
        with self._alone():  # else a reader could find the file before it is locked, and take us for dead
            self._held = os.open(self._path(mine, "lock"), os.O_RDWR | os.O_CREAT, 0o644)
            _flock(self._held)
        self._id = mine
        self._leaving = weakref.finalize(self, os.close, self._held)
        self._leaving.atexit = False  # the system does it, after the last word was written

    def _bury(self, dead: list[str]) -> None:
        graves = self._graves()
        new = [other for other in dead if other not in graves["ids"]]
        totals: dict[Family, dict[Entry, float]] = {}
        for document in (graves["metrics"], *(self._load(other) or [] for other in new)):
            for (metric, text, kind), samples in document:
                for name, labels, value in samples:
                    if counts(kind, name):
                        entries = totals.setdefault((metric, text, kind), {})
                        entry = entry_of(name, labels)
                        entries[entry] = entries.get(entry, 0.0) + value
        metrics = [
            (family, [(name, dict(labels), value) for (name, labels), value in entries.items()])
            for family, entries in totals.items()
        ]
        path = self._folder / f"{self._group}.dead.json"
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps({"ids": dead, "metrics": metrics}), encoding="utf-8")
        temporary.replace(path)  # from here on they are counted there, even when we end before the next line
        for other in dead:
            for kind in ("json", "new", "lock"):  # the lock last: as long as it is there, somebody comes back to it
                with suppress(FileNotFoundError):
                    self._path(other, kind).unlink()

    def _graves(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self._folder / f"{self._group}.dead.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"ids": [], "metrics": []}
        return found

    def _load(self, other: str) -> Document | None:
        try:
            found: Document = json.loads(self._path(other, "json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None  # it has not written yet
        return found

    def _path(self, other: str, kind: str) -> Path:
        return self._folder / f"{self._group}.{other}.{kind}"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of the group.

        Raises:
            TimeoutError: when a process that holds it stands still.
        """
        handle = os.open(self._folder / f"{self._group}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            deadline = REAL_CLOCK.monotonic() + _PATIENCE
            while not _flock(handle):
                if REAL_CLOCK.monotonic() > deadline:
                    raise TimeoutError(f"another process has held {self._group}.lock for {_PATIENCE:g} s")
                REAL_CLOCK.sleep(0.005)
            try:
                yield
            finally:
                _unlock(handle)  # said, not only closed: a process forked meanwhile has the handle, too
        finally:
            os.close(handle)


def counts(kind: str, sample: str) -> bool:
    """Whether a sample of a metric of this type only goes up."""
    return kind == "counter" or (kind == "summary" and sample.endswith(("_count", "_sum")))


def entry_of(sample: str, labels: Mapping[str, str]) -> Entry:
    """What tells a sample from all others."""
    return sample, tuple(sorted(labels.items()))


def _is_locked(path: Path) -> bool:
    handle = os.open(path, os.O_RDWR)
    try:
        if not _flock(handle):
            return True
        _unlock(handle)
        return False
    finally:
        os.close(handle)


def _flock(handle: int) -> bool:
    """Lock it, unless somebody has it."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unlock(handle: int) -> None:
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_UN)
