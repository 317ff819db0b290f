"""RoundRobin: exact, from a random start, however many threads."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.balancing import RoundRobin
from resilient.discovery import Instance
from tests.listed import instances

FORKS = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def at(start: float) -> RoundRobin:
    """A rotation whose start is drawn as `start`."""
    return RoundRobin(rng=lambda: start)


@given(hosts=st.integers(1, 12), rounds=st.integers(1, 20), start=st.floats(0.0, 0.999))
def test_k_rounds_give_every_host_exactly_k(hosts: int, rounds: int, start: float) -> None:
    """k x H picks in a row give every one of H hosts exactly k, whatever the start."""
    known = tuple(Instance("db", f"10.0.0.{number}", 1) for number in range(hosts))
    rotation = at(start)
    counts = Counter(rotation.pick(known, None) for _ in range(rounds * hosts))
    assert set(counts) == set(known)
    assert set(counts.values()) == {rounds}


@given(st.lists(st.integers(1, 8), min_size=2, max_size=30))
def test_the_position_survives_a_change_of_the_list(lengths: list[int]) -> None:
    """The rotation goes on, not back to its start, when the list changes: the n-th pick is that of position n."""
    known = instances("abcdefgh")
    rotation = at(0.0)
    assert [rotation.pick(known[:length], None) for length in lengths] == [
        known[position % length] for position, length in enumerate(lengths)
    ]


def test_64_threads_differ_by_one_pick_at_most() -> None:
    """64 threads x 250 picks over 7 hosts: the busiest has at most one more than the idlest."""
    known, rotation = instances("abcdefg"), RoundRobin()
    barrier = threading.Barrier(64)
    counts: list[Counter[Instance]] = []

    def run() -> None:
        barrier.wait()
        counts.append(Counter(rotation.pick(known, None) for _ in range(250)))

    threads = [threading.Thread(target=run) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(counts, Counter[Instance]())
    assert total.total() == 64 * 250
    assert max(total.values()) - min(total.values()) <= 1


def test_fresh_rotations_do_not_all_start_at_the_first_host() -> None:
    """1,000 fresh processes over 10 hosts: no host gets more than 14 % of the first picks (seeded)."""
    known, chance = instances("abcdefghij"), random.Random(7)
    counts = Counter(RoundRobin(rng=chance.random).pick(known, None) for _ in range(1000))
    assert len(counts) == 10
    assert max(counts.values()) <= 140


def test_the_start_is_drawn_once() -> None:
    """The start is drawn at the first pick, not at construction and not again."""
    draws: list[float] = []

    def rng() -> float:
        draws.append(0.5)
        return 0.5

    rotation = RoundRobin(rng=rng)
    assert draws == []
    known = instances("abcd")
    assert [rotation.pick(known, None).id for _ in range(5)] == ["c", "d", "a", "b", "c"]
    assert draws == [0.5]


@FORKS
def test_a_forked_child_draws_a_start_of_its_own() -> None:
    """The workers of a prefork server, which share a rotation made before, do not go in step."""
    known, drawn = instances("abcd"), [0.0]
    rotation = RoundRobin(rng=lambda: drawn[0])
    assert [rotation.pick(known, None).id for _ in range(2)] == ["a", "b"]
    drawn[0] = 0.75
    child = os.fork()
    if child == 0:
        os._exit(ord(rotation.pick(known, None).id))
    _, status = os.waitpid(child, 0)
    assert chr(os.waitstatus_to_exitcode(status)) == "d"
    assert rotation.pick(known, None).id == "c"
