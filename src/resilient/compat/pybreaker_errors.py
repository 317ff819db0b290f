"""One error that both libraries' `except` clauses catch."""

from __future__ import annotations

import pybreaker as upstream

from resilient.errors import CircuitOpenError, FailureInfo


class CircuitBreakerError(upstream.CircuitBreakerError, CircuitOpenError):
    """The circuit is open, or this call opened it; caught as pybreaker's error and as `CircuitOpenError`.

    Attributes:
        policy: the breaker's name, or "circuit_breaker".
        retry_after: seconds until a call may be admitted, or None when that is not known.
        last_failure: what opened the circuit; None when it was opened by hand or by another process.

    Example:
        >>> import pybreaker
        >>> from resilient import CircuitOpenError
        >>> from resilient.compat.pybreaker import CircuitBreaker
        >>> breaker = CircuitBreaker(reset_timeout=30, name="prices")
        >>> breaker.open()
        True
        >>> try:
        ...     breaker.call(print)
        ... except pybreaker.CircuitBreakerError as error:
        ...     print(error, isinstance(error, CircuitOpenError), error.policy, round(error.retry_after))
        Timeout not elapsed yet, circuit breaker still open True prices 30
    """

    def __init__(
        self,
        *args: object,
        policy: str = "circuit_breaker",
        retry_after: float | None = None,
        last_failure: FailureInfo | None = None,
    ) -> None:
        self.args = args
        self.policy = policy
        self.retry_after = retry_after
        self.last_failure = last_failure
