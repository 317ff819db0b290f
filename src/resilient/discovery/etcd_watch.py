"""Everything below a prefix of etcd: read once, then watched. Decides only; sends nothing itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from resilient.clock import Clock
from resilient.discovery.etcd_calls import EtcdCalls
from resilient.discovery.etcd_wire import after, from64, message, read_entry, revision, text64, told
from resilient.discovery.instance import Instance
from resilient.discovery.roster import Roster
from resilient.discovery.source import Doubt, Source, told_once
from resilient.discovery.steps import Answer, Exchange, more

_PURPOSE = "watching"
_APART = 1.0  # seconds between the begins of two watches, however fast they end


class EtcdWatch(Source):
    """The job that keeps the roster fresh.

    Args:
        prefix: of the keys, with a slash at its end.
        calls: how etcd is asked.
        roster: who learns the answer.
        watch: seconds of silence after which the watch is begun anew, which shows that etcd is there.
        clock: where time comes from.
        rng: where the spread comes from: a function like `random.random`.
    """

    def __init__(
        self,
        prefix: str,
        calls: EtcdCalls,
        roster: Roster,
        watch: float,
        clock: Clock,
        rng: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(calls.servers, roster, max(30.0, watch), clock, rng)
        self._prefix = prefix
        self._calls = calls
        self._silence = watch
        self._range = {"key": text64(prefix), "range_end": text64(after(prefix))}
        self._revision: int | None = None  # of the store, up to which everything is known; None: read it all
        self._found: dict[str, dict[str, Instance]] = {}  # by service, by key
        self._wrong: dict[str, str] = {}
        self._doubt = Doubt()
        self._tell = told_once(f"{calls.servers.name}: skipped")

    def _look(self) -> Exchange[None]:
        if self._revision is None and not (yield from self._read_all()):
            return
        yield from self._follow()

    def _read_all(self) -> Exchange[bool]:
        read: list[Any] = []

        def accept(answer: Answer) -> str:
            if not answer.good:
                return told(answer)
            try:
                found = message(answer.body)
                keys = found.get("kvs", [])
                if not isinstance(keys, list):
                    return "its keys are no list"
                read[:] = [revision(found), *keys]
            except ValueError as error:
                return str(error)
            return ""

        answer = yield from self._calls.call("/v3/kv/range", self._range, accept=accept, purpose=_PURPOSE)
        if answer.error or not answer.good:
            self._failed(answer)
            return False
        found, wrong, self._found, self._wrong = self._found, self._wrong, {}, {}
        for pair in read[1:]:
            self._put(pair)
        if not self._doubt.believes(_count(found), _count(self._found)):
            self._found, self._wrong = found, wrong
            self._confirm()
            return False
        self._tell(list(self._wrong.values()))
        self._roster.replace({service: self._of(service) for service, these in self._found.items() if these})
        self._revision = read[0]
        return True

    def _follow(self) -> Exchange[None]:
        """Watch until the stream ends, breaks or is silent for too long."""
        assert self._revision is not None
        request = {**self._range, "start_revision": str(self._revision + 1), "progress_notify": True}
        body = {"create_request": request}
        answer = yield from self._calls.call("/v3/watch", body, purpose=_PURPOSE, stream=True)
        if answer.error or not answer.good:
            self._failed(answer)
            return
        limit = self._servers.timeout  # for the word that it watches; then for anything at all
        while True:
            line = yield more(limit)
            if line.status != 200 or not self._learn(line.body):
                break
            limit = self._silence
            self._backoff.reset()
            self._roster.answers.ring()
        self._next = max(self._clock.monotonic(), self._started + _APART)

    def _learn(self, body: bytes) -> bool:
        """Take what a line says; whether more may follow."""
        try:
            found = message(body)
        except ValueError:
            return False
        now = revision(found)
        events = found.get("events", [])
        if found.get("canceled") or "error" in found or not isinstance(events, list):
            self._revision = (
                None  # compacted behind us, or no longer allowed: read it all, keep what is known till then
            )
            return False
        if self._revision is not None and 0 < now < self._revision:
            self._revision = None  # another store: a watch from our revision on would wait for it in vain
            return False
        changed: set[str] = set()
        for event in events:
            changed.update(self._apply(event))
        self._tell(list(self._wrong.values()))
        self._roster.amend({service: self._of(service) for service in changed})
        self._revision = now or self._revision
        return True

    def _apply(self, event: Any) -> Iterable[str]:
        """The services that are not as before."""
        pair = event.get("kv") if isinstance(event, dict) else None
        if not isinstance(pair, dict):
            return
        if event.get("type") == "DELETE":
            try:
                key = from64(pair.get("key"))
            except ValueError:
                return
            self._wrong.pop(key, None)
            yield from self._drop(key)
        else:
            yield from self._put(pair)

    def _put(self, pair: Any) -> list[str]:
        key = "?"
        try:
            key = from64(pair["key"])
            fresh = read_entry(self._prefix, key, from64(pair.get("value", "")))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self._wrong[key] = f"{key}: {error if isinstance(error, ValueError) else 'it is no key and value'}"
            return self._drop(key)
        self._wrong.pop(key, None)
        self._found.setdefault(fresh.service, {})[key] = fresh
        return [fresh.service]

    def _drop(self, key: str) -> list[str]:
        service = key.removeprefix(self._prefix).partition("/")[0].lower()
        return [service] if self._found.get(service, {}).pop(key, None) is not None else []

    def _of(self, service: str) -> tuple[Instance, ...]:
        these = self._found.get(service, {})
        return tuple(these[key] for key in sorted(these))


def _count(found: dict[str, dict[str, Instance]]) -> int:
    return sum(map(len, found.values()))
