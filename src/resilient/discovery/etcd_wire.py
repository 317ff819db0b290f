"""etcd's JSON gateway, read tolerantly: base64 keys, numbers as text, gRPC's codes in errors. Observed on 3.4.23."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from typing import Any

from resilient.discovery.instance import Instance
from resilient.discovery.plain import read_instance
from resilient.discovery.steps import Answer, Send
from resilient.discovery.streams import StreamingWire

_AUTH = ("authentication failed", "user name is empty", "invalid auth token")


class EtcdWire(StreamingWire):
    """As `StreamingWire`; errors that mean "who are you?" have the status 401, which the gateway gives to one alone."""

    async def send(self, step: Send, /) -> Answer:
        """The answer."""
        answer = await super().send(step)
        if answer.status == 400 and any(word in words(answer) for word in _AUTH):
            return dataclasses.replace(answer, status=401)
        return answer


def text64(text: str) -> str:
    """A key as it is sent."""
    return base64.b64encode(text.encode()).decode()


def from64(value: object) -> str:
    """A key or value as it was meant; ValueError when it is none."""
    try:
        return base64.b64decode(str(value), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("it is no text in base64") from error


def after(prefix: str) -> str:
    """The first key behind all that begin with `prefix`, which is ASCII at its end."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def message(body: bytes) -> dict[str, Any]:
    """One JSON object; a stream's is in `result`.

    Raises:
        ValueError: when it is none.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no answer of etcd: {body[:60]!r}") from error
    if isinstance(found, dict) and isinstance(found.get("result"), dict):
        found = found["result"]
    if not isinstance(found, dict):
        raise ValueError(f"no answer of etcd: {body[:60]!r}")  # noqa: TRY004  # the body is wrong, not an argument
    return found


def revision(found: dict[str, Any]) -> int:
    """That of the whole store when the answer was made; 0 when it does not say."""
    header = found.get("header")
    try:
        return int(header.get("revision", 0)) if isinstance(header, dict) else 0
    except (ValueError, TypeError):
        return 0


def words(answer: Answer) -> str:
    """What etcd says is wrong."""
    try:
        found = json.loads(answer.body)
        return str(found.get("message") or found.get("error") or "")
    except (ValueError, AttributeError, RecursionError):
        return ""


def told(answer: Answer) -> str:
    """Why an answer is none, with etcd's own words."""
    return str(answer) + (f": {words(answer)[:120]}" if words(answer) and not answer.error else "")


def read_entry(prefix: str, key: str, value: str) -> Instance:
    """The instance of `PREFIX/SERVICE/ID`: an object, or `host:port`.

    Raises:
        ValueError: when it is none; says why.
    """
    service, slash, name = key.removeprefix(prefix).partition("/")
    if not slash or not service or not name:
        raise ValueError(f"a key is {prefix}SERVICE/ID")
    try:
        raw = json.loads(value) if value.lstrip().startswith("{") else value.strip()
    except (ValueError, RecursionError):
        raise ValueError("its value is no JSON") from None
    return dataclasses.replace(read_instance(service.lower(), raw), id=name)
