"""A signal that arrives everywhere: a call is made again and again, and each time a handler runs one step later.

CPython runs the handlers of signals between two instructions of the main thread: where a function begins, after a call
into C, where a loop jumps back. What such a handler raises (Ctrl-C, a soft time limit) leaves from there, and what it
calls is called there. Neither has to wait for chance: what watches each instruction (a trace function, from CPython
3.12 on `sys.monitoring`) asks for the signal just before one after which handlers may run, without calling anything
more, and the interpreter delivers it at the next such place.
"""

from __future__ import annotations

import _thread
import contextvars
import dis
import functools
import gc
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeVar

import resilient

S = TypeVar("S")

_LIBRARY = str(Path(resilient.__file__).parent)
_PLACES = ("CALL", "RESUME", "JUMP_BACKWARD", "POP_JUMP_BACKWARD")  # how the names of such instructions begin
_SWALLOWED = {"__del__", "_remove"}  # the second is a WeakSet's callback
_MOST = 5_000  # places in one call
_TOOL = 4  # of sys.monitoring: none of those that debuggers, coverage and profilers use
_MAIN = threading.main_thread().ident


class Interrupted(KeyboardInterrupt):
    """What the handler raises unless it is told to do something else."""


class _Number(int):
    # To read an attribute, unlike a call, is no place where handlers run: the trace function itself is spared.
    pending = property(_thread.interrupt_main)


_SIGINT = _Number(signal.SIGINT)


@dataclass
class Swept:
    """What was found: how many places there were, and what was wrong after a signal at one of them."""

    places: int = 0
    problems: list[str] = field(default_factory=list)


def sweep(
    make: Callable[[], S],
    run: Callable[[S], object],
    problem: Callable[[S], object],
    *,
    handler: Callable[[S], object] | None = None,
) -> Swept:
    """Make `run(make())` once for each place of the library where a signal handler may run in it; look what is left.

    Only for the main thread. Each round has a context of its own. An error that `run` raises by itself is a problem,
    too. Where the signal comes in a `__del__` the handler does nothing: CPython swallows what is raised there.

    Args:
        make: what a round needs. Build it anew, and use it once, so that what is made on first use is made.
        run: the call that is interrupted.
        problem: what is wrong afterwards, false when nothing is. When something is, it is asked again after a garbage
            collection, and that counts: a permit in a traceback's cycle may go that late.
        handler: what the signal handler does; default: it raises Interrupted.

    Returns:
        The number of places and the problems, each with the file, the line and the function where the signal came.
    """
    found = Swept()
    for number in count():
        assert number < _MOST, "this call does not end"
        if not contextvars.copy_context().run(_round, number, make, run, problem, handler, found.problems):
            break
        found.places += 1
    return found


def _round(
    number: int,
    make: Callable[[], S],
    run: Callable[[S], object],
    problem: Callable[[S], object],
    handler: Callable[[S], object] | None,
    problems: list[str],
) -> bool:
    state = make()
    where = "after the call"

    def handle(_number: int, frame: FrameType | None) -> None:
        nonlocal where
        where = _place(frame)
        if _swallows(frame):
            return
        if handler is None:
            raise Interrupted
        handler(state)

    before, others = signal.signal(signal.SIGINT, handle), sys.gettrace()
    said: object = None
    _asking.left, _asking.asked = number, False
    try:
        _watch()
        run(state)
        _watch_no_more()
        _deliver()
    except Interrupted:
        pass
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    finally:
        _watch_no_more()
        sys.settrace(others)
        signal.signal(signal.SIGINT, before)
    if not _asking.asked:
        assert not said, said  # without any signal
        return False
    if not said and problem(state):
        gc.collect()
        said = problem(state)
    if said:
        problems.append(f"{where}: {said}")
    return True


class _Asking:
    left = 0  # places to pass before the signal is asked for
    asked = False


_asking = _Asking()


if sys.version_info >= (3, 12):

    def _watch() -> None:
        sys.monitoring.use_tool_id(_TOOL, "sweeping")
        sys.monitoring.register_callback(_TOOL, sys.monitoring.events.INSTRUCTION, _instruction)
        sys.monitoring.set_events(_TOOL, sys.monitoring.events.INSTRUCTION)

    def _watch_no_more() -> None:
        if sys.monitoring.get_tool(_TOOL) is not None:
            sys.monitoring.set_events(_TOOL, 0)
            sys.monitoring.free_tool_id(_TOOL)

    def _instruction(code: CodeType, offset: int) -> object:
        if not code.co_filename.startswith(_LIBRARY) or offset not in _places(code):
            return sys.monitoring.DISABLE
        if _asking.asked or threading.get_ident() != _MAIN:
            return None
        if _asking.left:
            _asking.left -= 1
            return None
        _asking.asked = True
        sys.monitoring.set_events(_TOOL, 0)  # where the next callback begins would be a place, too
        _ = _SIGINT.pending
        return None  # nothing may be called here any more

else:

    def _watch() -> None:
        sys.settrace(_enter)

    def _watch_no_more() -> None:
        sys.settrace(None)

    # Functions of the module: CPython 3.11 may crash when a trace function is freed while it is in use.
    def _enter(frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(_LIBRARY):
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return _step

    def _step(frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:
        if event != "opcode" or _asking.asked or frame.f_lasti not in _places(frame.f_code):
            return _step
        if _asking.left:
            _asking.left -= 1
            return _step
        _asking.asked = True
        sys.settrace(None)
        _ = _SIGINT.pending
        return None  # nothing may be called here any more


@functools.cache
def _places(code: CodeType) -> frozenset[int]:
    return frozenset(each.offset for each in dis.get_instructions(code) if each.opname.startswith(_PLACES))


def _deliver() -> None:
    """Do nothing: a function that begins is a place, so what was asked for and did not come yet comes now."""


def _swallows(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name in _SWALLOWED:
            return True
        frame = frame.f_back
    return False


def _place(frame: FrameType | None) -> str:
    assert frame is not None
    return f"{'/'.join(frame.f_code.co_filename.split('/')[-2:])}:{frame.f_lineno} {frame.f_code.co_name}"
