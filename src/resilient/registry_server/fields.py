"""The fields that both forms on the wire share."""

from __future__ import annotations

from resilient.registry_server.record import Record

EMPTY_MAP = "java.util.Collections$EmptyMap"  # how Netflix's server writes empty metadata


def lease_before(record: Record) -> dict[str, int]:
    """What stands in `leaseInfo` before the time of the last renewal."""
    return {
        "renewalIntervalInSecs": record.renewal_interval,
        "durationInSecs": record.duration,
        "registrationTimestamp": record.registered_ms,
    }


def lease_after(record: Record) -> dict[str, int]:
    """What stands in `leaseInfo` after it."""
    return {"evictionTimestamp": record.evicted_ms, "serviceUpTimestamp": record.up_ms}


def optional(record: Record) -> dict[str, str]:
    """The fields that are left out when they were not given, in the order of the wire."""
    given = {
        "sid": record.sid,
        "appGroupName": record.app_group,
        "homePageUrl": record.home_page,
        "statusPageUrl": record.status_page,
        "healthCheckUrl": record.health_check,
        "secureHealthCheckUrl": record.secure_health_check,
        "vipAddress": record.vip,
        "secureVipAddress": record.secure_vip,
        "asgName": record.asg,
    }
    return {name: value for name, value in given.items() if value is not None}
