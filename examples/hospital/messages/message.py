"""A message: what it is, and how it is written on a wire or in a table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resilient.errors import ConfigError

LARGEST_BODY = 256 * 1024  # bytes; NATS and Kafka take 1 MiB by default, a Kafka batch has to hold some
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,100}")  # one token of a NATS subject, and a legal Kafka topic
_ID = re.compile(r"[!-~]{1,200}")  # it travels in a header of its own


@dataclass(frozen=True, slots=True)
class Message:
    """What a handler gets.

    Attributes:
        id: the same at each delivery of the same message; what a duplicate is recognised by.
        topic: what it is about, such as `open_invoice`.
        body: what it says, as JSON has it.
        attempt: 1 at the first delivery to this group, one more at each other, whoever of the group got those.
    """

    id: str
    topic: str
    body: Mapping[str, Any] = field(repr=False)  # it names patients, and a log is read by many
    attempt: int = 1


class UnreadableBodyError(ValueError):
    """What arrived is no JSON object: it was not published by one of us."""


def encode(body: Mapping[str, Any]) -> bytes:
    """Write `body` as JSON.

    Raises:
        ConfigError: when JSON cannot say it, or it is longer than 256 KiB.
    """
    if not isinstance(body, Mapping):
        raise ConfigError(f"message: body must be a mapping, not {type(body).__name__}", path="body")
    try:
        data = json.dumps(dict(body), allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"message: body must be what JSON can say: {error}", path="body") from error
    if len(data) > LARGEST_BODY:
        raise ConfigError(
            f"message: body must be at most {LARGEST_BODY:,} bytes as JSON, not {len(data):,}; keep what is large"
            " elsewhere, and say where",
            path="body",
        )
    return data


def decode(data: bytes) -> dict[str, Any]:
    """Read what `encode` wrote.

    Raises:
        UnreadableBodyError: when it is no JSON object.
    """
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UnreadableBodyError(f"no JSON: {error}") from error
    if not isinstance(body, dict):
        raise UnreadableBodyError(f"no JSON object but a {type(body).__name__}")
    return body


def checked_topic(value: object, path: str = "topic") -> str:
    """`value` as the name of a topic or of a group: 1 to 100 letters, digits, `_` or `-`."""
    if not isinstance(value, str) or not _TOPIC.fullmatch(value):
        raise ConfigError(f"message: {path} must be 1 to 100 letters, digits, '_' or '-', not {value!r}", path=path)
    return value


def checked_id(value: object) -> str:
    """`value` as the id of a message: 1 to 200 visible ASCII characters."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ConfigError(f"message: id must be 1 to 200 visible ASCII characters, not {value!r}", path="id")
    return value
