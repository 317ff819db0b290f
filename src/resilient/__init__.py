"""Circuit breakers, fallbacks, timeouts, discovery and load balancing for services that call services."""

from resilient.clock import Clock
from resilient.deadline import Deadline
from resilient.decorator import Command, command, commands
from resilient.errors import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitOpenError,
    ConcurrencyLimitedError,
    ConfigError,
    DeadlineExceededError,
    DiscoveryError,
    FailureInfo,
    NoInstanceError,
    RateLimitedError,
    RegistryAuthError,
    RegistryUnavailableError,
    RejectedError,
    ResilienceError,
    ResilienceWarning,
)
from resilient.events import Event, listen
from resilient.gate import Gate, Permit
from resilient.http_answers import is_transient, retry_after
from resilient.keyed import KeyDropped, Keyed
from resilient.outcome import Outcome
from resilient.pipeline import Pipeline
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.circuit_report import (
    CircuitBreakerSnapshot,
    CircuitRejected,
    CircuitStateChanged,
    CircuitThresholdReached,
)
from resilient.policies.circuit_states import State
from resilient.policies.fallback import Fallback
from resilient.policies.redis_state import RedisState
from resilient.policies.stale_cache import StaleCache
from resilient.policies.timeout import Timeout
from resilient.policy import Explanation, Policy
from resilient.shared_state import SharedStateLost, SharedStateRegained
from resilient.window import CountWindow, TimeWindow

__all__ = [
    "command",
    "commands",
    "listen",
    "is_transient",
    "retry_after",
    "BulkheadFullError",
    "CallTimeoutError",
    "CircuitBreaker",
    "CircuitBreakerSnapshot",
    "CircuitOpenError",
    "CircuitRejected",
    "CircuitStateChanged",
    "CircuitThresholdReached",
    "Clock",
    "Command",
    "ConcurrencyLimitedError",
    "ConfigError",
    "CountWindow",
    "Deadline",
    "DeadlineExceededError",
    "DiscoveryError",
    "Event",
    "Explanation",
    "FailureInfo",
    "Fallback",
    "Gate",
    "KeyDropped",
    "Keyed",
    "NoInstanceError",
    "Outcome",
    "Permit",
    "Pipeline",
    "Policy",
    "RateLimitedError",
    "RedisState",
    "RegistryAuthError",
    "RegistryUnavailableError",
    "RejectedError",
    "ResilienceError",
    "ResilienceWarning",
    "SharedStateLost",
    "SharedStateRegained",
    "StaleCache",
    "State",
    "TimeWindow",
    "Timeout",
]
