"""How to choose: what a strategy is, in two kinds for users and two that only this package has."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

from resilient.balancing.fleet import Fleet, Load
from resilient.balancing.hosts import Host
from resilient.clock import forget_on_fork
from resilient.discovery import Instance
from resilient.errors import ConfigError


class Strategy(Protocol):
    """How to choose; one object per balancer, called by many threads at once, outside every lock."""

    def pick(self, instances: Sequence[Instance], key: str | None, /) -> Instance:
        """One of `instances`.

        Args:
            instances: what may be chosen: never empty, always in the same order while the list does not change.
            key: what calls that belong together have in common (a user, a shard), or None.
        """
        ...


class Candidate(Protocol):
    """What a strategy may look at, of an instance that may be chosen."""

    @property
    def instance(self) -> Instance:
        """Which one."""
        ...

    @property
    def in_flight(self) -> int:
        """The calls of this process to it that have not ended."""
        ...

    @property
    def latency(self) -> float | None:
        """Its mean latency in seconds; None while it is not known."""
        ...

    @property
    def weight(self) -> float:
        """Its share of a full turn, at most 1.0: less when it is slow, new, or weighs less in the registry."""
        ...


C = Any  # a candidate as the balancer has it: what comes in goes out


class CandidateStrategy(Strategy, Protocol):
    """A strategy that wants to know more: `pick_among` is called instead of `pick`, outside every lock, too."""

    def pick_among(self, candidates: Sequence[Candidate], key: str | None, /) -> Candidate:
        """One of `candidates`; arguments as for `pick`."""
        ...


class Chooser:
    """A strategy of this package: chooses under the balancer's lock, so that picking and counting are one step."""

    narrows: ClassVar[bool] = False

    def __init__(self) -> None:
        self._lock = threading.Lock()  # for `pick` alone; a balancer has its own
        self._alone: tuple[Sequence[Instance], Fleet] | None = None
        forget_on_fork(self)

    def ready(self, instances: tuple[Instance, ...]) -> None:
        """A list is about to be used: draw what is left to chance, outside the lock."""

    def choose(self, fleet: Fleet, key: str | None, tried: Collection[Host]) -> Host:
        """One of the fleet's hosts that is not in `tried`; there is one. Under a lock: no user's code, no waiting."""
        raise NotImplementedError

    def pick(self, instances: Sequence[Instance], key: str | None, /) -> Instance:
        """One of `instances`, for use without a balancer: what it would know of load and latency is missing."""
        self.ready(tuple(instances))
        with self._lock:
            return self.choose(self._fleet_locked(instances), key, ()).instance

    def _fleet_locked(self, instances: Sequence[Instance]) -> Fleet:
        if self._alone is None or self._alone[0] is not instances:
            hosts = [Host(instance, float("-inf")) for instance in instances]
            weigh(hosts)
            self._alone = (instances, Fleet(hosts, hosts, Load()))
        return self._alone[1]

    def after_fork_in_child(self) -> None:
        """A new lock, and new chances."""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Narrower:
    """A strategy that makes the choice smaller and leaves it to another one."""

    narrows: ClassVar[bool] = True

    def ready(self, instances: tuple[Instance, ...]) -> None:
        """A list is about to be used."""
        raise NotImplementedError

    def narrow(self, fleet: Fleet, key: str | None, tried: Collection[Host]) -> tuple[Fleet, AnyStrategy]:
        """The part to choose from, with a host in it that was not tried, and who chooses. Outside every lock."""
        raise NotImplementedError

    def chosen(self, key: str | None, host: Host) -> None:
        """What was chosen for `key`."""

    def pick(self, instances: Sequence[Instance], key: str | None, /) -> Instance:
        """One of `instances`, for use without a balancer."""
        found = tuple(instances)
        self.ready(found)
        hosts = [Host(instance, float("-inf")) for instance in found]
        weigh(hosts)
        part, inner = self.narrow(Fleet(hosts, hosts, Load()), key, ())
        choice = inner.pick(part.instances, key)
        host = part.host_of(choice)
        if host is not None:
            self.chosen(key, host)
        return choice


AnyStrategy: TypeAlias = Strategy | Chooser | Narrower


def weigh(hosts: Sequence[Host]) -> None:
    """Set every host's weight: the registry's word beside the greatest one, times guard and slow start."""
    top = max((host.instance.weight for host in hosts), default=1.0)
    if not 0.0 < top < float("inf"):  # nobody weighs anything, or a registry talks nonsense: all the same
        for host in hosts:
            host.weight = host.guard * host.ramp
        return
    for host in hosts:
        own = host.instance.weight
        host.weight = host.guard * host.ramp * (1.0 if own == top else max(0.0, own / top))


def asked_under_lock(strategy: AnyStrategy) -> Callable[[Fleet, str | None, Collection[Host]], Host] | None:
    """`choose` of a strategy of ours; None when a subclass has a `pick` of its own, which is the user's code."""
    kind = type(strategy)
    if not isinstance(strategy, Chooser) or _depth(kind, "pick") < _depth(kind, "choose"):
        return None
    return strategy.choose


def ask(strategy: AnyStrategy, fleet: Fleet, key: str | None, tried: Collection[Host]) -> Host:
    """Ask the user's code, outside every lock; go on when it answers with what was tried.

    Walks on in the strategy's own order: rotating among the rest alone would stay in step with the failures and send
    the same instance the load of two (measured: 1.8 times its share).
    """
    for _ in range(len(tried) + 1):
        host = _answer(strategy, fleet, key)
        if host not in tried:
            return host
    return _answer(strategy, fleet.only(host for host in fleet.hosts if host not in tried), key)


def made(owner: str, strategy: Callable[[], Strategy]) -> AnyStrategy:
    """The object that a class or function makes.

    Raises:
        ConfigError: when it is none, or makes something that can not choose.
    """
    wanted = f"{owner}: strategy must be a class or function that makes a strategy, such as RoundRobin"
    if not callable(strategy):
        raise ConfigError(f"{wanted}, not {strategy!r}", path="strategy")
    found = strategy()
    if not callable(getattr(found, "pick", None)) and not callable(getattr(found, "pick_among", None)):
        raise ConfigError(f"{wanted}; {strategy!r} made {found!r}, which has no pick()", path="strategy")
    return found


def make_ready(strategy: AnyStrategy, instances: tuple[Instance, ...]) -> None:
    """Tell a strategy of ours that a list is about to be used."""
    if isinstance(strategy, (Chooser, Narrower)):
        strategy.ready(instances)


def _answer(strategy: AnyStrategy, fleet: Fleet, key: str | None) -> Host:
    among = getattr(strategy, "pick_among", None)
    if among is not None:
        choice = among(fleet.hosts, key)
        if isinstance(choice, Host):
            return choice
        instance = choice
    else:
        instance = strategy.pick(fleet.instances, key)
    host = fleet.host_of(instance)
    if host is None:
        raise ConfigError(
            f"{strategy!r} chose {instance!r}, which is none of the instances it was given", path="strategy"
        )
    return host


def _depth(kind: type, name: str) -> int:
    return next((number for number, one in enumerate(kind.__mro__) if name in vars(one)), len(kind.__mro__))
