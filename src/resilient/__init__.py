"""Circuit breakers, retries, timeouts, discovery and load balancing for services that call services."""

from resilient.budget import RetryBudget, RetryBudgetSnapshot
from resilient.clock import Clock
from resilient.command_metrics import CommandSnapshot
from resilient.config import configure
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
    MissingResultError,
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
from resilient.policies.bulkhead import Bulkhead, BulkheadRejected, BulkheadSnapshot
from resilient.policies.cache import Cache
from resilient.policies.cache_report import CacheSnapshot, CollapserSnapshot
from resilient.policies.chaos import Chaos, ChaosInjected, ChaosSnapshot
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.circuit_report import (
    CircuitBreakerSnapshot,
    CircuitRejected,
    CircuitStateChanged,
    CircuitThresholdReached,
)
from resilient.policies.circuit_states import State
from resilient.policies.collapser import Collapser
from resilient.policies.concurrency_limiter import ConcurrencyLimiter
from resilient.policies.fallback import BadResult, Fallback
from resilient.policies.hedge import Hedge
from resilient.policies.hedge_report import HedgeSnapshot, HedgeStarted
from resilient.policies.limit_algorithms import AIMD, Gradient2, LimitAlgorithm, Vegas
from resilient.policies.limit_priorities import priority
from resilient.policies.limit_report import ConcurrencyLimiterSnapshot, ConcurrencyLimitReached
from resilient.policies.rate_limiter import RateLimited, RateLimiter, RateLimiterSnapshot
from resilient.policies.redis_state import RedisState
from resilient.policies.retry import Retry
from resilient.policies.retry_report import RetryBudgetExhausted, RetryGaveUp, RetryScheduled, RetrySnapshot
from resilient.policies.shared_rate import SharedRateLimiter
from resilient.policies.stale_cache import StaleCache
from resilient.policies.thread_pool_bulkhead import ThreadPoolBulkhead, ThreadPoolRejected, ThreadPoolSnapshot
from resilient.policies.timeout import Timeout
from resilient.policy import Explanation, Policy
from resilient.shared_state import SharedStateLost, SharedStateRegained
from resilient.window import CountWindow, TimeWindow

__all__ = [
    "command",
    "commands",
    "configure",
    "listen",
    "is_transient",
    "priority",
    "retry_after",
    "AIMD",
    "BadResult",
    "Bulkhead",
    "BulkheadFullError",
    "BulkheadRejected",
    "BulkheadSnapshot",
    "Cache",
    "CacheSnapshot",
    "CallTimeoutError",
    "Chaos",
    "ChaosInjected",
    "ChaosSnapshot",
    "CircuitBreaker",
    "CircuitBreakerSnapshot",
    "CircuitOpenError",
    "CircuitRejected",
    "CircuitStateChanged",
    "CircuitThresholdReached",
    "Clock",
    "Collapser",
    "CollapserSnapshot",
    "Command",
    "CommandSnapshot",
    "ConcurrencyLimitedError",
    "ConcurrencyLimiter",
    "ConcurrencyLimiterSnapshot",
    "ConcurrencyLimitReached",
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
    "Gradient2",
    "Hedge",
    "HedgeSnapshot",
    "HedgeStarted",
    "KeyDropped",
    "Keyed",
    "LimitAlgorithm",
    "MissingResultError",
    "NoInstanceError",
    "Outcome",
    "Permit",
    "Pipeline",
    "Policy",
    "RateLimited",
    "RateLimitedError",
    "RateLimiter",
    "RateLimiterSnapshot",
    "RedisState",
    "RegistryAuthError",
    "RegistryUnavailableError",
    "RejectedError",
    "ResilienceError",
    "ResilienceWarning",
    "Retry",
    "RetryBudget",
    "RetryBudgetExhausted",
    "RetryBudgetSnapshot",
    "RetryGaveUp",
    "RetryScheduled",
    "RetrySnapshot",
    "SharedRateLimiter",
    "SharedStateLost",
    "SharedStateRegained",
    "StaleCache",
    "State",
    "ThreadPoolBulkhead",
    "ThreadPoolRejected",
    "ThreadPoolSnapshot",
    "Timeout",
    "TimeWindow",
    "Vegas",
]
