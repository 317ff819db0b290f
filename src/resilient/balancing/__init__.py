"""Choosing among the instances of a service, and learning from how the calls end."""

from __future__ import annotations

from resilient.balancing.balancer import Balancer, BalancerSnapshot, InstancePutAside, InstanceSnapshot, Lease
from resilient.balancing.strategies import RoundRobin, Strategy

__all__ = [
    "Balancer",
    "BalancerSnapshot",
    "InstancePutAside",
    "InstanceSnapshot",
    "Lease",
    "RoundRobin",
    "Strategy",
]
