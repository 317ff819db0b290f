"""Alerts, as Alertmanager's webhook and its API have them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

_MOST: Final = 1000  # alerts of one message
_MOST_LABELS: Final = 100
_ZERO_YEAR: Final = 1  # Go's zero time: not known


class UnreadableError(ValueError):
    """A message is none of these; says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Alert:
    """What somebody says of an alert.

    Attributes:
        name: its label `alertname`.
        key: the same for the same alert, whoever sends it.
        starts_at: since when it fires, in seconds of the wall clock.
        firing: False when it is over.
        ends_in: seconds after which it is over unless it is told again; None when that is not said.
    """

    name: str
    key: str
    starts_at: float
    firing: bool
    ends_in: float | None = None


def read_webhook(body: bytes, *, now: float) -> list[Alert]:
    """The alerts of a message of Alertmanager's webhook, version 4.

    Args:
        body: JSON.
        now: seconds of the wall clock.

    Raises:
        UnreadableError: when it is no such message.
    """
    message = _json(body)
    if not isinstance(message, dict):
        raise UnreadableError("a webhook's message is a JSON object")
    if message.get("version") != "4":
        raise UnreadableError(f"the version must be '4', not {_shown(message.get('version'))}")
    return [_of_webhook(one, f"alerts[{number}]", now) for number, one in enumerate(_list(message.get("alerts")))]


def read_api(body: bytes, *, now: float) -> list[Alert]:
    """The alerts that a Prometheus posts to `/api/v2/alerts`; see `read_webhook`.

    It repeats those that fire every minute, each with the time at which it is over if it is not repeated.
    """
    return [_of_api(one, f"[{number}]", now) for number, one in enumerate(_list(_json(body)))]


def _of_webhook(given: object, path: str, now: float) -> Alert:
    alert = _object(given, path)
    status = alert.get("status")
    if not isinstance(status, str) or status not in {"firing", "resolved"}:
        raise UnreadableError(f"{path}.status must be 'firing' or 'resolved', not {_shown(status)}")
    labels = _labels(alert, path)
    starts_at = _time(alert.get("startsAt"), f"{path}.startsAt")
    return Alert(labels.get("alertname", ""), _key(labels), now if starts_at is None else starts_at, status == "firing")


def _of_api(given: object, path: str, now: float) -> Alert:
    alert = _object(given, path)
    labels = _labels(alert, path)
    starts_at = _time(alert.get("startsAt"), f"{path}.startsAt")
    ends_at = _time(alert.get("endsAt"), f"{path}.endsAt")
    ends_in = None if ends_at is None else ends_at - now
    firing = ends_in is None or ends_in > 0
    name = labels.get("alertname", "")
    return Alert(name, _key(labels), now if starts_at is None else starts_at, firing, ends_in if firing else None)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise UnreadableError("the body is no JSON") from None


def _list(given: object) -> list[object]:
    if not isinstance(given, list):
        raise UnreadableError("the alerts must be a list")
    if len(given) > _MOST:
        raise UnreadableError(f"there are {len(given)} alerts, more than {_MOST}")
    return given


def _object(given: object, path: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise UnreadableError(f"{path} must be an object, not {_shown(given)}")
    return given


def _labels(alert: Mapping[str, Any], path: str) -> dict[str, str]:
    labels = _object(alert.get("labels"), f"{path}.labels")
    if not labels or len(labels) > _MOST_LABELS or not all(isinstance(value, str) for value in labels.values()):
        raise UnreadableError(f"{path}.labels must have 1 to {_MOST_LABELS} labels, each of them text")
    return labels


def _key(labels: Mapping[str, str]) -> str:
    return json.dumps(sorted(labels.items()))


def _time(given: object, path: str) -> float | None:
    if given is None or given == "":
        return None
    try:
        found = datetime.fromisoformat(given) if isinstance(given, str) else None
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise UnreadableError(f"{path} must be a time as in RFC 3339, not {_shown(given)}")
    return None if found.year == _ZERO_YEAR else found.timestamp()


def _shown(given: object) -> str:
    text = repr(given)
    return text if len(text) <= 40 else f"{text[:37]}..."
