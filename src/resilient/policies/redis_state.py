"""The states of circuits, shared through Redis: one script, which answers for any number of circuits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from resilient.checks import positive_seconds
from resilient.errors import ConfigError
from resilient.policies.redis_client import RedisClient
from resilient.shared_state import Known, Phase, Said, Word

if TYPE_CHECKING:
    import redis

_TOGETHER = 250  # circuits per script: Redis does nothing else meanwhile, for 0.8 ms (measured, Redis 7.0)
_LONGEST_REASON = 200

# Times are the server's, so the clocks of the machines do not matter; what is answered is how much is left, and never
# more than was asked for, whatever happens to the server's clock. An epoch is the server's time in microseconds: no two
# openings of a circuit have the same, even when its key was deleted in between. A closed circuit is remembered longer
# than any process can still take it for open: so a key that is not there means that nobody knows, not that it is
# closed, and a Redis that lost its memory closes nothing.
_SCRIPT = """
local KEPT = 60000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stamp = time[1] * 1000000 + time[2]
local function digits(number) return string.format('%.0f', number) end
local function after(epoch) return digits(math.max(stamp, (tonumber(epoch) or 0) + 1)) end
local answers = {}
for i = 1, #KEYS / 2 do
  local circuit, lease, at = KEYS[2 * i - 1], KEYS[2 * i], 5 * (i - 1)
  local word, ms, holder, epoch, reason =
    ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
  local found = redis.call('HMGET', circuit, 'state', 'until', 'length', 'epoch', 'reason')
  local state, seen, why = found[1] or '', found[4] or '', found[5] or ''
  local left, owner = 0, false
  if state == 'open' then
    left = math.max(0, math.min(tonumber(found[2]) - now, tonumber(found[3])))
  end
  if state == 'open' or word ~= 'read' then
    owner = redis.call('GET', lease)
  end
  local mine = owner == holder
  local release = mine and word ~= 'read' and word ~= 'probe' and word ~= 'probing'
  if word == 'opened' then
    if ms > left then left, why = ms, reason end
    state, seen = 'open', after(seen)
    redis.call('HSET', circuit, 'state', state, 'until', digits(now + left), 'length', digits(left),
      'epoch', seen, 'reason', why)
    redis.call('PEXPIRE', circuit, digits(left + KEPT))
  elseif word == 'closed' then
    if state == '' or (state == 'open' and epoch == seen) then
      redis.call('DEL', circuit)
      redis.call('HSET', circuit, 'state', 'closed', 'epoch', after(seen))
      redis.call('PEXPIRE', circuit, digits(left + KEPT))
      state, seen, left, why = 'closed', after(seen), 0, ''
    end
  elseif word == 'probe' or word == 'probing' then
    if left > 0 or state == 'closed' then
      release = mine
    elseif mine then
      redis.call('PEXPIRE', lease, digits(ms))
    elseif not owner then
      redis.call('SET', lease, holder, 'NX', 'PX', digits(ms))
      owner, mine = holder, true
    end
  end
  if release then
    redis.call('DEL', lease)
    owner, mine = false, false
  end
  local held = 0
  if owner then held = math.max(0, redis.call('PTTL', lease)) end
  answers[i] = {state, left, seen, why, held, mine and 1 or 0}
end
return answers
"""
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
_PHASES = {"": Phase.UNKNOWN, "open": Phase.OPEN, "closed": Phase.CLOSED}


class RedisState:
    """Circuits that all processes of a fleet open and close together, through Redis.

    A circuit that opens in one process is open in all within a second, with its end and its reason; when that time is
    over one process probes and the others wait for what it finds. What each process counts stays its own. Opt for it
    where the processes call the same thing: one process with a bad network stops them all.

    No call waits for Redis. One daemon thread per process reads all shared circuits once per `poll`, in one script,
    and tells at once what opens and closes. Redis gone for 3 s: each process goes by what it sees, with one WARNING
    and a `SharedStateLost`. Keys are `namespace:name` and `namespace:name:probe`; they expire on the server.

    Args:
        url: as redis-py takes it, such as "redis://localhost:6379/0". Redis 6 or later, or what speaks like it; not a
            cluster of several shards.
        namespace: of the keys, default "resilient:circuit".
        timeout: seconds that the thread waits for an answer, default 0.5.
        poll: seconds between two readings, default 1.0.
        lease: seconds that the others wait for a probing process that is heard of no more, default 5.0; at least
            three times `poll`, for it is renewed once per poll.

    Raises:
        ConfigError: when an argument is wrong, or the `redis` package is missing.

    Safe for threads; forked children connect anew.

    Source: the lease is Redis's own lock recipe (SET NX PX); the rest is our own.

    Example:
        >>> from resilient import RedisState
        >>> RedisState("redis://:secret@localhost:6379")  # connects when first needed
        RedisState('redis://localhost:6379')
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "resilient:circuit",
        timeout: float = 0.5,
        poll: float = 1.0,
        lease: float = 5.0,
    ) -> None:
        self._client = RedisClient("RedisState", url, timeout)
        given: object = namespace  # what a caller without a type checker may pass
        if not (isinstance(given, str) and given):
            raise ConfigError(f"RedisState: namespace must be text that is not empty, not {given!r}", path="namespace")
        self._namespace = given
        self.poll = positive_seconds("RedisState", "poll", poll)
        self.lease = positive_seconds("RedisState", "lease", lease)
        if lease < 3 * poll:
            raise ConfigError(
                f"RedisState: lease must be at least three times poll ({poll:g} s), for it is renewed once per poll,"
                f" not {lease!r}",
                path="lease",
            )

    def exchange(self, said: Sequence[Said], /) -> list[Known]:
        """One script per 250 circuits."""
        answers: list[Known] = []
        with self._client.open() as client:
            for start in range(0, len(said), _TOGETHER):
                answers += self._some(client, said[start : start + _TOGETHER])
        return answers

    def _some(self, client: redis.Redis, said: Sequence[Said]) -> list[Known]:
        from redis.exceptions import NoScriptError

        keys, arguments = list[str](), list[str]()
        for one in said:
            key = f"{self._namespace}:{one.name}"
            keys += [key, f"{key}:probe"]
            ms = max(1, round(one.seconds * 1000)) if one.word is not Word.READ else 0
            arguments += [one.word.value, str(ms), one.holder, one.epoch, one.reason[:_LONGEST_REASON]]
        try:
            raw: Any = client.evalsha(_SHA, len(keys), *keys, *arguments)
        except NoScriptError:  # a Redis that has just started
            raw = client.eval(_SCRIPT, len(keys), *keys, *arguments)
        return [_known(*one) for one in raw]

    def __repr__(self) -> str:
        return f"RedisState({self._client.url!r})"


def _known(state: bytes | str, left: int, epoch: bytes | str, reason: bytes | str, held: int, mine: int) -> Known:
    return Known(
        phase=_PHASES[_text(state)],
        seconds_left=left / 1000,
        reason=_text(reason),
        epoch=_text(epoch),
        lease_left=held / 1000,
        mine=bool(mine),
    )


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
