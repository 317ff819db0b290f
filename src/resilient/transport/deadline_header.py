"""How long an answer is still of use, told from one service to the next in a header.

`X-Request-Timeout-Ms` says how many milliseconds are left, so the clocks of two machines need not agree; the time on
the way is not subtracted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

DEADLINE_HEADER: Final = "X-Request-Timeout-Ms"
LONGEST: Final = 3600.0  # seconds; more is no limit that anybody waits for

_LONGEST_MS = 3_600_000
_GRPC, _ENVOY = "grpc-timeout", "x-envoy-expected-rq-timeout-ms"
_GRPC_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_DIGITS = 15  # more are no number of milliseconds that anybody means, and cost time to read


def whole_ms(seconds: float) -> int:
    """Seconds as the header says them: whole milliseconds, rounded down, an hour at most. 0: not to be sent."""
    return max(0, min(int(seconds * 1000), _LONGEST_MS))


def header_ms(left_ms: int, present: str | None) -> str:
    """The value of the header.

    Args:
        left_ms: milliseconds that are left, 1 or more.
        present: what the request says already; the smaller of both is sent.
    """
    said = _number(present)
    if said:
        left_ms = min(left_ms, int(said))
    return str(max(1, left_ms))


def seconds_left(headers: Mapping[str, str]) -> float | None:
    """What the headers of a request that came in say, in seconds; None when they say nothing.

    `X-Request-Timeout-Ms`, `grpc-timeout` and `x-envoy-expected-rq-timeout-ms` are read; of several the smallest holds.
    What is no number of digits, or 0, is ignored: it is not known what its sender meant.

    Args:
        headers: by name in lower case.

    Example:
        >>> from resilient.transport.deadline_header import seconds_left
        >>> seconds_left({"x-request-timeout-ms": "1500", "grpc-timeout": "2S"})
        1.5
    """
    said = [_number(headers.get(name), 1e-3) for name in (DEADLINE_HEADER.lower(), _ENVOY)]
    grpc = headers.get(_GRPC, "").strip()
    if grpc and len(grpc) <= 9:  # at most eight digits and a unit
        said.append(_number(grpc[:-1], _GRPC_UNITS.get(grpc[-1], 0.0)))
    return min((seconds for seconds in said if seconds), default=None)


def limited(seconds: float, most: float | None) -> float:
    """How long a deadline read from a header may be."""
    return min(seconds, LONGEST if most is None else most)


def lower_names(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """ASGI's headers as `seconds_left` takes them: those that it reads."""
    wanted = {name.encode(): name for name in (DEADLINE_HEADER.lower(), _GRPC, _ENVOY)}
    return {wanted[name]: value.decode("latin-1") for name, value in headers if name in wanted}


def _number(text: str | None, unit: float = 1.0) -> float | None:
    if text is None:
        return None
    text = text.strip()
    return float(text) * unit if len(text) <= _DIGITS and text.isascii() and text.isdigit() else None
