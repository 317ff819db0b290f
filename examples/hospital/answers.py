"""How a service answers: JSON with the replica's own id, and one clear sentence about what a caller did wrong."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from examples.hospital.service import Replica

logger = logging.getLogger("hospital")

MAX_BODY: Final = 16_384  # bytes: a patient has a name and a birthday
LARGEST_ID: Final = 2**63 - 1
PAGE: Final = 100  # rows in one answer, unless `limit` says otherwise
LONGEST_PAGE: Final = 1000
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,18}")


class Problem(Exception):  # noqa: N818  # what is told to a caller
    """Something that the caller is told.

    Attributes:
        status: of the answer.
        sentence: for people.
        problems: a sentence for each field that is wrong.
        headers: more of the answer.
    """

    def __init__(
        self,
        status: int,
        sentence: str,
        *,
        problems: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.problems = dict(problems or {})
        self.headers = dict(headers or {})


class ServedBy:
    """Puts the replica's id into the head of every answer, and ends connections while the replica is going.

    Args:
        app: the application.
        replica: who answers.
    """

    def __init__(self, app: ASGIApp, replica: Replica) -> None:
        self._app = app
        self._replica = replica

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"x-served-by", self._replica.id.encode("latin-1"))]
                if self._replica.draining:
                    headers.append((b"connection", b"close"))  # the caller's next request goes to another replica
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, sending if scope["type"] == "http" else send)


def told(replica: Replica, problem: Problem) -> Response:
    """What a caller reads of a problem."""
    more = {"problems": problem.problems} if problem.problems else {}
    answer = replica.answer({"error": problem.sentence, **more}, problem.status)
    answer.headers.update(problem.headers)
    return answer


def handlers(replica: Replica) -> Mapping[Any, ExceptionHandler]:
    """What a caller reads when a request can not be served."""

    async def problem(_: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return told(replica, error)

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        answer = replica.answer({"error": f"{error.detail}."}, error.status_code)
        answer.headers.update(error.headers or {})
        return answer

    async def broken(request: Request, error: Exception) -> Response:
        logger.error("%s %s went wrong", request.method, request.url.path, exc_info=error)
        return replica.answer({"error": "Something broke here. Please try again."}, 500)

    return {Problem: problem, HTTPException: http, Exception: broken}


def number(given: str | None, name: str) -> int:
    """Read an id: digits, from 1 to what a database can hold.

    Raises:
        Problem: 400 when it is none.
    """
    if given is None:
        raise Problem(400, f"{name} is missing.", problems={name: "Give one, such as 1."})
    if not _NUMBER.fullmatch(given) or int(given) > LARGEST_ID:
        wrong = f"This is none: {given[:40]!r}."
        raise Problem(400, f"{name} must be a whole number from 1 on.", problems={name: wrong})
    return int(given)


def page_of(request: Request) -> tuple[int, int]:
    """(after which id, how many rows) a list begins and has: `?after=100&limit=50`."""
    query = request.query_params
    limit = number(query["limit"], "limit") if "limit" in query else PAGE
    after = number(query["after"], "after") if query.get("after", "0") != "0" else 0
    return after, min(limit, LONGEST_PAGE)


async def json_object(request: Request) -> dict[str, Any]:
    """The body of a request, read no further than it may be long.

    Raises:
        Problem: 413 when it is too long, 415 when it is said to be no JSON, 400 when it is no JSON object.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "The body must be JSON: Content-Type: application/json.")
    body = bytearray()
    announced = request.headers.get("content-length", "")
    too_long = announced.isdecimal() and (len(announced) > 18 or int(announced) > MAX_BODY)
    if not too_long:
        async for chunk in request.stream():
            body += chunk
            too_long = len(body) > MAX_BODY
            if too_long:
                break
    if too_long:
        raise Problem(413, f"The body must not have more than {MAX_BODY} bytes.", headers={"Connection": "close"})
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise Problem(400, "The body is no JSON.") from None
    if not isinstance(found, dict):
        raise Problem(400, "The body must be a JSON object.")
    return found
