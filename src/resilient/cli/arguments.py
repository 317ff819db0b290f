"""The values of options, read: each mistake is one sentence that names what is allowed."""

from __future__ import annotations

import argparse
import math
import os

from resilient.errors import ConfigError

URL_HELP = (
    "where the registry is: eureka://host:8761, http(s)://host/eureka, consul://host, file:///services.json and more; "
    "default $RESILIENT_DISCOVERY"
)


def add_url(parser: argparse.ArgumentParser) -> None:
    """The argument that says which registry."""
    parser.add_argument("url", metavar="URL", nargs="?", help=URL_HELP)


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """The option for programs."""
    parser.add_argument("--json", action="store_true", help=what)


def add_services(parser: argparse.ArgumentParser) -> None:
    """The option that chooses services."""
    parser.add_argument(
        "-s",
        "--service",
        metavar="NAME",
        action="append",
        default=[],
        type=str.lower,
        help="only this service; may be repeated. DNS and Consul are asked by name, so there it is needed",
    )


def url_of(args: argparse.Namespace) -> str:
    """The URL that was given, else the environment's.

    Raises:
        ConfigError: when there is neither.
    """
    url: str | None = args.url or os.environ.get("RESILIENT_DISCOVERY")
    if not url:
        raise ConfigError("which registry? Give a URL like eureka://localhost:8761, or set $RESILIENT_DISCOVERY")
    return url


def port(text: str) -> int:
    """A port, or 0 for any."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"a port is a whole number from 0 to 65535, not {text!r}")
    return int(text)


def service_port(text: str) -> int:
    """A port that can be called."""
    number = port(text)
    if number == 0:
        raise argparse.ArgumentTypeError("a port is a whole number from 1 to 65535, not '0': which one does it open?")
    return number


def count(text: str) -> int:
    """A whole number, at least 1."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 62):
        raise argparse.ArgumentTypeError(f"a whole number from 1 is needed, not {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """A time that passes."""
    return _seconds(text, least=math.ulp(0.0), words="more than 0")


def seconds_or_none(text: str) -> float:
    """A time that may be 0."""
    return _seconds(text, least=0.0, words="0 or more")


def pair(text: str) -> tuple[str, str]:
    """`key=value`."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise argparse.ArgumentTypeError(f"metadata is key=value, not {text!r}")
    return key.strip(), value


def path(text: str) -> str:
    """The path of a URL."""
    if not text.startswith("/") or any(letter.isspace() for letter in text):
        raise argparse.ArgumentTypeError(f"a path begins with a slash, as in /health, not {text!r}")
    return text


def _seconds(text: str, *, least: float, words: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not least <= found < 1e9:
        raise argparse.ArgumentTypeError(f"seconds are a number {words}, not {text!r}")
    return found
