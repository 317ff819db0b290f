"""What the commands say: results on stdout, sentences on stderr, and what the exit status means."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

DONE, FAILED, USAGE = 0, 1, 2


def say(text: str) -> None:
    """One line of the result, at once: somebody may read along."""
    print(text, flush=True)  # noqa: T201  # this line is what the command says


def complain(sentence: str) -> None:
    """One sentence for the person who ran the command."""
    print(f"resilient: {sentence}", file=sys.stderr, flush=True)  # noqa: T201


def fail(sentence: str) -> int:
    """Complain; the exit status of a failure."""
    complain(sentence)
    return FAILED


def silence(stream: TextIO) -> None:
    """Nobody reads a stream any more: what is said from now on, and what is still buffered, goes nowhere."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, stream.fileno())
    os.close(sink)


def as_json(value: Any, *, indent: int | None = None) -> str:
    """A value for another program."""
    return json.dumps(value, indent=indent, ensure_ascii=True)


def plain(text: str) -> str:
    """Text that somebody else wrote, as it may be shown: control characters would speak to the terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns, each as wide as it must be; nothing is cut off."""
    shown = [head, *([plain(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def pairs(mapping: Mapping[str, str]) -> str:
    """`a=1 b=2`."""
    return " ".join(f"{key}={value}" for key, value in sorted(mapping.items()))
