"""For tests of code that uses resilient."""

from resilient.testing.clock import VirtualClock

__all__ = ["VirtualClock"]
