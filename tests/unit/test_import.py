"""`import resilient` is light: what a policy needs is imported when it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "asyncio",
    "ssl",
    "httpx",
    "tenacity",
    "cachetools",
    "pybreaker",
    "redis",
    "starlette",
    "uvicorn",
    "prometheus_client",
)


def loaded_after(statement: str) -> set[str]:
    """The heavy modules that a fresh interpreter has loaded after `statement`."""
    code = f"import sys\n{statement}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=30)
    return set(done.stdout.split())


def test_import_resilient_loads_nothing_heavy() -> None:
    """No event loop, no TLS, no HTTP client, no optional package."""
    assert loaded_after("import resilient") == set()


def test_a_guarded_plain_function_loads_nothing_heavy_either() -> None:
    """A sync program never pays for asyncio."""
    code = "import resilient\n@resilient.command('f', fallback=resilient.Fallback(value=1))\ndef f(): return 2\nf()"
    assert loaded_after(code) == set()


@pytest.mark.parametrize("module", ["resilient.discovery", "resilient.balancing", "resilient.testing"])
def test_rooms_of_their_own_are_light_too(module: str) -> None:
    """Naming a registry does not load the client that will ask it."""
    assert loaded_after(f"import {module}") == set()


def test_no_thread_starts_and_no_file_is_opened_at_import() -> None:
    """Nothing happens until something is used."""
    code = (
        "import threading, sys; import resilient, resilient.discovery, resilient.balancing\n"
        "print(threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "1"
