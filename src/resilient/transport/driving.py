"""How a call is carried out: the policies around it, the attempts, the waits. Each step once, in the two colours.

An adapter brings its `Call` and a function that makes one attempt; nothing here knows a client library.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

from resilient.errors import CallTimeoutError, NoInstanceError, RejectedError
from resilient.places import collected, held
from resilient.transport.calls import Call
from resilient.transport.exchange import Exchange

Send: TypeAlias = Callable[[Any, Exchange, Any], Any]
"""One attempt: (the call, its exchange, the client's request) -> the answer, or an error."""
SendAsync: TypeAlias = Callable[[Any, Exchange, Any], Awaitable[Any]]


def run(call: Call, send: Send, request: Any) -> Any:
    """The answer to a request, for functions.

    Args:
        call: what is known of it.
        send: makes one attempt.
        request: the client's; policies see it, a Fallback is called with it.

    Raises:
        RejectedError, CallTimeoutError: as the client's own; and whatever the client raises.
    """
    if not call.ready:
        with call.limited():
            _wait_once(call)
            call.ready = True
            return run(call, send, request)
    answer: Any = None
    if call.plan.holds:
        call.held_before = len(held.places)
    try:
        part = call.plan.call
        if part is None:
            answer = _attempts(call, send, request)
        else:
            answer = part._sync()(partial(_attempts, call, send), (request,), {})
            if type(answer) is not call.answer_kind:
                call.checked(answer)
    except call.failed_kind as failed:
        answer = call.told(failed)
    except (RejectedError, CallTimeoutError) as error:
        leaving = call.as_clients(error)
        try:
            if leaving is error:
                raise
            raise leaving from error
        finally:
            del leaving  # its traceback holds this frame
    finally:
        call.over = True
        if len(call.answers) != 1 or call.answers[0] is not answer:
            call.discard_all_but(answer)
    return answer


def _wait_once(call: Call) -> None:
    first = call.first_wait()
    if first is None:
        return
    discovery, service, seconds, hurried = first
    missing: NoInstanceError | None = None
    try:
        discovery.wait(service, timeout=seconds)
    except NoInstanceError as error:
        missing = error
    call.waited(missing, hurried=hurried)


def _attempts(call: Call, send: Send, request: Any) -> Any:
    exchange, part = Exchange(call), call.plan.attempt
    try:
        while True:
            try:
                if part is None:
                    return send(call, exchange, request)
                return part._sync()(partial(send, call, exchange), (request,), {})
            except BaseException as error:
                wait = exchange.again(error)
                if wait is None:
                    leaving = call.leaving(error, exchange)
                    try:
                        if leaving is error:
                            raise
                        raise leaving from error
                    finally:
                        del leaving  # its traceback holds this frame
            if wait:
                waiting = exchange.waiting
                try:
                    waiting.add(exchange)
                    call.lane.clock.sleep(wait)
                finally:
                    waiting.discard(exchange)
    finally:
        exchange.end()


async def run_async(call: Call, send: SendAsync, request: Any) -> Any:
    """The same for async functions."""
    if not call.ready:
        with call.limited():
            await _wait_once_async(call)
            call.ready = True
            return await run_async(call, send, request)
    answer: Any = None
    outer = collected.get()
    if call.plan.holds:
        call.collected = []
        collected.set(call.collected)
    try:
        part = call.plan.call
        if part is None:
            answer = await _attempts_async(call, send, request)
        else:
            answer = await part._async()(partial(_attempts_async, call, send), (request,), {})
            if type(answer) is not call.answer_kind:
                call.checked(answer)
    except call.failed_kind as failed:
        answer = call.told(failed)
    except (RejectedError, CallTimeoutError) as error:
        leaving = call.as_clients(error)
        try:
            if leaving is error:
                raise
            raise leaving from error
        finally:
            del leaving  # its traceback holds this frame
    finally:
        if call.collected is not None:
            collected.set(outer)
        call.over = True
        if len(call.answers) != 1 or call.answers[0] is not answer:
            await call.discard_all_but_async(answer)
    return answer


async def _wait_once_async(call: Call) -> None:
    first = call.first_wait()
    if first is None:
        return
    discovery, service, seconds, hurried = first
    missing: NoInstanceError | None = None
    try:
        await discovery.wait_async(service, timeout=seconds)
    except NoInstanceError as error:
        missing = error
    call.waited(missing, hurried=hurried)


async def _attempts_async(call: Call, send: SendAsync, request: Any) -> Any:
    exchange, part = Exchange(call), call.plan.attempt
    try:
        while True:
            try:
                if part is None:
                    return await send(call, exchange, request)
                return await part._async()(partial(send, call, exchange), (request,), {})
            except BaseException as error:
                wait = exchange.again(error)
                if wait is None:
                    leaving = call.leaving(error, exchange)
                    try:
                        if leaving is error:
                            raise
                        raise leaving from error
                    finally:
                        del leaving  # its traceback holds this frame
            if wait:
                waiting = exchange.waiting
                try:
                    waiting.add(exchange)
                    await call.lane.clock.sleep_async(wait)
                finally:
                    waiting.discard(exchange)
    finally:
        exchange.end()
