"""What a Eureka server lists, of every status, as full answers and deltas leave it."""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

from resilient.discovery.eureka_wire import Applications, Listed
from resilient.discovery.instance import Instance, Known

_Entries: TypeAlias = dict[str, Instance | str]  # by id, in order of ids when looked at; a status when not usable


class Mirror:
    """The server's list as far as it is known here. For the one loop that writes it; readers read the roster.

    Source of the rules: the Netflix client 1.10.18; deltas overlap, so applying one twice changes nothing.
    """

    def __init__(self) -> None:
        self.problems: dict[tuple[str, str], str] = {}  # of the instances that can not be read, by service and id
        self._services: dict[str, _Entries] = {}
        self._counts: Counter[str] = Counter()
        self._unsorted: set[str] = set()  # services with entries that came last

    @property
    def listed(self) -> int:
        """How many instances of any status."""
        return sum(self._counts.values())

    @property
    def hashcode(self) -> str:
        """`STATUS_count_` for each status in order of the alphabet, as the server computes it over all instances."""
        return "".join(f"{status}_{count}_" for status, count in sorted(self._counts.items()) if status and count)

    def fill(self, answer: Applications) -> Known:
        """Take a full answer, and return who is usable. Who did not change stays the same object."""
        before, self._services = self._services, {}
        self._counts.clear()
        self.problems.clear()
        for one in answer.listed:
            self._put(one, before.get(one.service, {}).get(one.id))
        return {service: found for service in self._services if (found := self._usable(service))}

    def apply(self, answer: Applications) -> Known:
        """Take a delta, and return who is usable now of each service that it names."""
        touched: set[str] = set()
        for one in answer.listed:
            touched.add(one.service)
            if one.deleted:
                self._drop(one)
            else:
                self._put(one, self._services.get(one.service, {}).get(one.id))
        return {service: self._usable(service) for service in touched if service}

    def _put(self, one: Listed, before: Instance | str | None) -> None:
        name = one.id or f"?{len(self.problems)}"
        entries = self._services.setdefault(one.service, {})
        self._uncount(one.service, name, entries.get(name))
        if one.problem:
            self.problems[one.service, name] = one.problem
        self._counts[one.status] += 1
        if name not in entries:
            self._unsorted.add(one.service)
        entries[name] = (before if _same(before, one.instance) else one.instance) or one.status

    def _drop(self, one: Listed) -> None:
        entries = self._services.get(one.service, {})
        self._uncount(one.service, one.id, entries.pop(one.id, None))
        if not entries:
            self._services.pop(one.service, None)
            self._unsorted.discard(one.service)

    def _uncount(self, service: str, name: str, before: Instance | str | None) -> None:
        if before is not None:
            self._counts["UP" if isinstance(before, Instance) else before] -= 1
            self.problems.pop((service, name), None)

    def _usable(self, service: str) -> tuple[Instance, ...]:
        entries = self._services.get(service, {})
        if service in self._unsorted:  # not each time: a service of ten thousand in which one changed
            self._unsorted.discard(service)
            self._services[service] = entries = {name: entries[name] for name in sorted(entries)}
        return tuple([entry for entry in entries.values() if isinstance(entry, Instance)])


def _same(before: Instance | str | None, after: Instance | None) -> bool:
    if not isinstance(before, Instance) or after is None:
        return False
    return before == after and before.metadata == after.metadata
