"""Who is alive, and under which name it is shown: few names, however many keys, hosts and policies there are."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from resilient import clock, names
from resilient.balancing import Balancer
from resilient.command_object import Command
from resilient.discovery import Registration
from resilient.keyed import Keyed
from resilient.policy import Policy

if TYPE_CHECKING:
    from resilient.transport.targets import Target

UNNAMED = "keyed"  # of every Keyed that was not given a name
HOSTS = "hosts"  # of what a transport calls that is no service that discovery knows

_NUMBERED = re.compile(r"(?s)(.+)#(\d+)")
_OWN_NUMBERS = 10  # `db#2` … `db#10` are shown; a program that makes a policy per call would make a name per call


class Member(NamedTuple):
    """One thing to be read.

    Attributes:
        thing: the policy, command, balancer or registration.
        name: its label.
        shared: whether others are shown under the same label.
    """

    thing: Any
    name: str
    shared: bool


def members(keyed: Mapping[str, Keyed[Any, Any]], labelled: Collection[str]) -> Iterator[Member]:
    """Everything that is alive.

    Args:
        keyed: names for these.
        labelled: names that are shown although they belong to a Keyed.
    """
    others = _others()
    groups = _groups(others, {id(one): name for name, one in keyed.items()})
    for thing in names.living():
        own: str = getattr(thing, "name", "")
        if not own:
            continue  # another thread is making it
        group = groups.get(id(thing))
        if group is not None and own not in labelled:
            yield Member(thing, group, shared=True)
        elif (numbered := _NUMBERED.fullmatch(own)) and int(numbered[2]) > _OWN_NUMBERS:
            yield Member(thing, f"{numbered[1]}#{_OWN_NUMBERS + 1}+", shared=True)
        else:
            yield Member(thing, own, shared=False)
    for thing in others:
        if isinstance(thing, Balancer):
            yield Member(thing, thing.service, shared=True)
        elif isinstance(thing, Registration):
            yield Member(thing, thing.instance.service, shared=True)


def _others() -> list[object]:
    """What has no label, but is known to the clock because a fork matters to it."""
    refs = clock._fork_aware.data.copy()  # type: ignore[attr-defined]  # one step in C: others come and go meanwhile
    return [thing for ref in refs if (thing := ref()) is not None]


def _groups(others: list[object], known: Mapping[int, str]) -> dict[int, str]:
    """The name of the Keyed by the id of each policy in it."""
    found: dict[int, str] = {}
    for one in others:
        if isinstance(one, Keyed):
            name = known.get(id(one), UNNAMED)
            values = [value for _, value in one.items()]  # a Keyed is no dict: it has no values()
            for value in values:
                found.update((id(policy), group) for policy, group in _parts(value, name))
    return found


def _parts(value: object, name: str) -> Iterator[tuple[object, str]]:
    if isinstance(value, Policy):
        yield value, name
        yield from ((layer, name) for layer in value.layers)
    elif isinstance(value, Command):
        yield value, name
        yield from ((layer, name) for layer in value.pipeline.layers)
    elif _is_host(value):
        yield from ((layer, HOSTS) for layer in value.layers)


def _is_host(value: Any) -> TypeGuard[Target]:
    """Whether a transport keeps it for a host or a name that discovery does not list: those come from users."""
    transport = sys.modules.get("resilient.transport.targets")  # not imported for this: it brings the HTTP client
    if transport is None or not isinstance(value, transport.Target):
        return False
    try:
        return not any(one is not None and one.instances() for one in map(value.balancer, ("http", "https")))
    except Exception:  # of a discovery that is not ours
        return True
