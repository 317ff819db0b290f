"""Foreign peers that a test needs: absent, the test skips with its reason; in continuous integration that fails."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest


def require(condition: object, reason: str) -> None:
    """Skip the test with `reason` unless `condition`; fail instead where RESILIENT_REQUIRE_PEERS=1."""
    if condition:
        return
    if os.environ.get("RESILIENT_REQUIRE_PEERS") == "1":
        pytest.fail(f"a peer that must be here is absent: {reason}")
    pytest.skip(reason)


def require_command(*names: str, package: str) -> str:
    """The path of the first command of `names` that is installed, or skip naming the Debian `package`."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    require(found, f"{names[0]} is not installed (Debian: apt-get install {package})")
    assert found is not None
    return found


def require_module(name: str) -> None:
    """Skip the test unless the distribution's module `name` can be imported."""
    require(importlib.util.find_spec(name), f"{name} is not installed (make test installs it)")


def require_built(*parts: str) -> Path:
    """A path below the folder where `.ci/peers` puts what it builds, or skip naming that command."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    found = Path(os.environ.get("RESILIENT_PEERS") or Path(cache, "resilient-peers"), *parts)
    require(found.exists(), f"{found} is not there (run .ci/peers, which needs a JDK, Maven and npm)")
    return found
