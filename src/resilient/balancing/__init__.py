"""Choosing among the instances of a service, and learning from how the calls end."""

from __future__ import annotations

from resilient.balancing.balancer import Balancer
from resilient.balancing.book import BalancerSnapshot
from resilient.balancing.events import InstanceEjected, InstancePutAside, InstanceReturned, PanicEntered, PanicLeft
from resilient.balancing.guarded import RoundRobin
from resilient.balancing.hashing import ConsistentHash
from resilient.balancing.health_checks import HealthChecks
from resilient.balancing.hosts import InstanceSnapshot
from resilient.balancing.leases import Lease
from resilient.balancing.least_request import LeastRequest
from resilient.balancing.outliers import Outliers
from resilient.balancing.random_choice import Random
from resilient.balancing.sticky import Sticky
from resilient.balancing.strategies import Candidate, CandidateStrategy, Strategy
from resilient.balancing.subsets import Subset
from resilient.balancing.weighted import WeightedRoundRobin
from resilient.balancing.zones import Priorities, Zoned

__all__ = [
    "Balancer",
    "BalancerSnapshot",
    "Lease",
    "InstanceSnapshot",
    "Outliers",
    "HealthChecks",
    "Strategy",
    "CandidateStrategy",
    "Candidate",
    "RoundRobin",
    "LeastRequest",
    "WeightedRoundRobin",
    "Random",
    "ConsistentHash",
    "Sticky",
    "Zoned",
    "Priorities",
    "Subset",
    "InstancePutAside",
    "InstanceEjected",
    "InstanceReturned",
    "PanicEntered",
    "PanicLeft",
]
