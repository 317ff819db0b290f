"""Prometheus's configuration: whom to scrape, found by the registry or by DNS, and whom to tell."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

ALERTS: Final = Path(__file__).with_name("alerts.yml")

_METADATA: Final = "__meta_eureka_app_instance_metadata"


def configuration(
    *,
    registry: str | None = None,
    names: Iterable[str] = (),
    port: int | None = None,
    others: Iterable[str] = (),
    receiver: str | None = None,
    interval: float = 1.0,
) -> str:
    """A prometheus.yml. JSON is YAML: nothing in an address can break it.

    Args:
        registry: `http://host:port` of the registry; every instance that it lists is scraped.
        names: names that DNS has an address for per replica, such as swarm's `tasks.patient`.
        port: where these listen.
        others: `host:port` of who is in neither, such as the gateway.
        receiver: `host:port` of who gets the alerts, by Alertmanager's API.
        interval: seconds between scrapes, and between looks at the rules.
    """
    every = f"{round(interval * 1000)}ms"
    jobs: list[dict[str, object]] = []
    if registry is not None:
        jobs.append(
            {
                "job_name": "registry",
                "metrics_path": "/actuator/prometheus",
                "eureka_sd_configs": [{"server": f"{registry}/eureka", "refresh_interval": every}],
                "relabel_configs": [
                    {"source_labels": ["__meta_eureka_app_name"], "target_label": "service", "action": "lowercase"},
                    {"source_labels": [f"{_METADATA}_replica"], "target_label": "replica"},
                    {"source_labels": ["__address__"], "target_label": "instance"},
                ],
            }
        )
    jobs += [_job(name, {"dns_sd_configs": [_dns(name, port, every)]}) for name in names]
    jobs += [_job("gateway", {"static_configs": [{"targets": list(others)}]})] if others else []
    document: dict[str, object] = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(ALERTS)],
        "scrape_configs": jobs,
    }
    if receiver is not None:
        document["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [receiver]}]}]}
    return json.dumps(document, indent=2)


def _dns(name: str, port: int | None, every: str) -> dict[str, object]:
    return {"names": [name], "type": "A", "port": port, "refresh_interval": every}


def _job(name: str, found: dict[str, object]) -> dict[str, object]:
    service = name.removeprefix("tasks.")
    relabelling = [{"target_label": "service", "replacement": service}]
    return {"job_name": name, "metrics_path": "/actuator/prometheus", "relabel_configs": relabelling, **found}
