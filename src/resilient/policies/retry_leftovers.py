"""What is left of earlier attempts: errors that the last one shows, results that are closed."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from types import CoroutineType
from typing import Any

logger = logging.getLogger("resilient")

_DEEPEST = 20  # errors in a row: one that is raised again and again would collect all that ever came before it


def note(error: BaseException, text: str) -> None:
    """Add a note, once."""
    with suppress(Exception):  # an error may refuse notes
        if text not in getattr(error, "__notes__", ()):  # the same object, raised again and again
            error.add_note(text)


def show_before(newer: BaseException, older: BaseException) -> None:
    """Make `older` the root of what `newer` happened during, unless that would close a circle."""
    chain = list(_contexts(newer))
    before = {id(one) for one in _contexts(older)}
    if len(chain) < _DEEPEST and not any(id(one) in before for one in chain):
        chain[-1].__context__ = older


def _contexts(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__context__


def close(result: Any) -> None:
    """Close what nobody will read: a response that is thrown away would keep its connection."""
    close = getattr(result, "close", None)
    if callable(close):
        try:
            closing = close()
            if type(closing) is CoroutineType:
                closing.close()
        except Exception:
            logger.debug("closing a result that is thrown away raised", exc_info=True)


async def aclose(result: Any) -> None:
    """The same where it may have to be awaited."""
    close = getattr(result, "aclose", None) or getattr(result, "close", None)
    if callable(close):
        try:
            closing = close()
            if isinstance(closing, Awaitable):
                await closing
        except Exception:
            logger.debug("closing a result that is thrown away raised", exc_info=True)
