"""What other tests have left behind is not seen in a scrape."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """Policies of finished tests may wait for the garbage collector."""
    gc.collect()
