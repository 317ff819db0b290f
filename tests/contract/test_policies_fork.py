"""Rule 28: every policy, busy in the parent, is of use in a forked child, and the parent goes on as before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = '''
import asyncio, os, sys, threading, time
from resilient import (
    Bulkhead, Cache, Chaos, CircuitBreaker, Collapser, Command, ConcurrencyLimiter, Deadline, Fallback, Hedge, Keyed,
    Pipeline, RateLimiter, RejectedError, Retry, RetryBudget, StaleCache, ThreadPoolBulkhead, Timeout, Vegas, command,
    commands, configure, listen, Event,
)
from resilient import clock
from resilient.workers import WORKERS

release = threading.Event()
entered = threading.Semaphore(0)


def busy(*_):
    entered.release()
    release.wait(60)
    return "parent"


def fails_once(left=[]):
    left.append(1)
    if len(left) == 1:
        raise ConnectionError
    return "child"


breaker = CircuitBreaker()
bulkhead = Bulkhead(1, max_wait=60.0)
limiter = RateLimiter(1000, burst=1000)
adaptive = ConcurrencyLimiter(Vegas(initial=1))
pool = ThreadPoolBulkhead(1, max_queue=1)
timeout = Timeout(60.0)
impatient = Timeout(0.01)
budget = RetryBudget(0.0, minimum_in_flight=1)
retry = Retry(wait=60.0, budget=budget)
probing = CircuitBreaker(open_duration=0.001)
probing.open(0.001)
cache = Cache(60.0)
stale = StaleCache()
collapser = Collapser(lambda keys: [busy() for _ in keys], delay=0.0)
fallback = Fallback(value="instead")
chaos = Chaos(rate=1.0, latency=0.0, error=ConnectionError)
hedge = Hedge(0.0)
keyed = Keyed(CircuitBreaker)
whole = command("whole", fallback=fallback, timeout=60.0, retry=Retry(), bulkhead=Bulkhead(1, max_wait=60.0),
                cache=Cache(60.0))(busy)
listen(lambda event: None, Event)
stale.call(str, "kept")


def start(fn, *args):
    threading.Thread(target=fn, args=args, daemon=True).start()


def retrying():
    entered.release()
    raise ConnectionError


calls = [(breaker.call, busy), (bulkhead.call, busy), (limiter.call, busy), (adaptive.call, busy), (pool.call, busy),
         (timeout.call, busy), (retry.call, retrying), (cache.call, busy), (collapser, 1), (keyed["a"].call, busy),
         (whole,)]
for one in calls:
    start(*one)
for _ in calls:
    assert entered.acquire(timeout=30)
start(bulkhead.call, busy)  # one waits for the place
start(pool.call, busy)  # and one in the queue
until = time.monotonic() + 30
while (bulkhead.snapshot().waiting, pool.snapshot().queued, retry.snapshot().waiting) != (1, 1, 1):
    assert time.monotonic() < until
    time.sleep(0.005)
try:
    impatient.call(busy)
except TimeoutError:
    assert impatient.abandoned == 1
while True:
    try:
        probe = probing.acquire()
        break
    except RejectedError:
        time.sleep(0.005)


def hold():
    """Another thread is under every lock of the library at the moment of the fork."""
    locks = {}
    for owner in list(clock._fork_aware):
        names = {*vars(owner)} if hasattr(owner, "__dict__") else set()
        names.update(name for kind in type(owner).__mro__ for name in getattr(kind, "__slots__", ()))
        for found in (getattr(owner, name, None) for name in names):
            if isinstance(found, (type(threading.Lock()), type(threading.RLock()))):
                locks[id(found)] = found  # some have several owners
    assert len(locks) > 15, len(locks)
    for lock in locks.values():
        lock.acquire()
    entered.release()
    release.wait(60)
    for lock in locks.values():
        lock.release()


start(hold)
assert entered.acquire(timeout=30)


def child():
    release.set()  # of the child's own copy; the threads that would see it are in the parent
    async def made():
        return "child"
    for policy in (breaker, bulkhead, limiter, adaptive, pool, timeout, cache, stale, fallback, chaos,
                   keyed["a"], keyed["b"]):
        assert policy.call(lambda policy=policy: "child") == "child", policy
        if policy is not pool:
            assert asyncio.run(policy.acall(made)) == "child", policy
    with Deadline(30.0):
        assert cache.call(busy) == "parent"  # led in a worker: made here, not waited for
        assert collapser(1) == "parent"
    assert probing.call(lambda: "child") == "child"  # it is the probe: the parent's is the parent's
    assert impatient.abandoned == 0
    assert Retry(wait=0.0, budget=budget).call(fails_once) == "child"
    chaos.enable()
    chaos.disable()
    hedge.snapshot(), chaos.snapshot(), collapser.snapshot(), stale.call(str, "kept"), keyed.keys(), commands()
    configure({"commands": {"whole": {"timeout": 30.0}}})
    Command.of(whole).configure(timeout=20.0)
    listen(lambda event: None, Event)()
    CircuitBreaker("a new one").force_open()
    assert retry.call(lambda: "child") == "child"
    assert asyncio.run(hedge.acall(made)) == "child"
    assert asyncio.run(Pipeline(fallback, retry, breaker, bulkhead, timeout).acall(made)) == "child"
    assert whole() == "parent"
    assert [policy.snapshot().in_flight for policy in (bulkhead, adaptive)] == [0, 0]
    assert (bulkhead.snapshot().waiting, retry.snapshot().waiting, collapser.snapshot().waiting) == (0, 0, 0)
    assert (pool.snapshot().queued, timeout.abandoned) == (0, 0)
    assert Command.of(whole).snapshot().calls == 1
    assert 1 <= WORKERS.threads <= 6


pid = os.fork()
if pid == 0:
    try:
        child()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert status == 0, status
assert not release.is_set()
release.set()
until = time.monotonic() + 30
while bulkhead.snapshot().in_flight or pool.snapshot().active or adaptive.snapshot().in_flight:
    assert time.monotonic() < until
    time.sleep(0.005)
assert bulkhead.snapshot().accepted == 2
assert pool.snapshot().completed == 2
print("both are well")
'''


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_every_policy_is_of_use_in_a_forked_child_and_afterwards_in_its_parent(tmp_path: Path) -> None:
    """Places, queues, waits, leaders and held locks are the parent's; the child begins empty, in both colours."""
    program = tmp_path / "forking.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(program)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "both are well\n", "")
