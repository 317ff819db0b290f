"""The stack file, as far as a client without an engine can tell: it can be read, and what it names is there."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from examples.hospital.messages import broker_of_url
from examples.hospital.messages.local_broker import server_binary
from examples.hospital.messages.nats_broker import NatsBroker
from examples.hospital.monitoring.configuration import ALERTS, configuration
from examples.hospital.service import DRAIN
from resilient.discovery import Registry
from tests.deploy.stack import DEPLOY, ROOT, STACK, document, hospital, option, seconds, services
from tests.peers import require_command

REPLICATED = ("patient", "ward", "finance")
_LEAVING = 1.0 + 5.0  # seconds: uvicorn ends what is under way, and the registry is told


def test_compose_takes_it() -> None:
    """Debian's docker-compose checks it against the schema of version 3."""
    command = require_command("docker-compose", package="docker-compose")
    done = subprocess.run([command, "-f", str(STACK), "config", "-q"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_swarms_own_client_takes_it() -> None:
    """`docker stack config` reads it as `docker stack deploy` would; older clients do not know that command."""
    if not shutil.which("docker"):
        pytest.skip("there is no docker; docker-compose has checked the schema")
    done = subprocess.run(
        ["docker", "stack", "config", "-c", str(STACK)], capture_output=True, text=True, check=False, timeout=30
    )
    if "unknown" in done.stderr or "is not a docker command" in done.stderr:
        pytest.skip("this docker has no `stack config`; docker-compose has checked the schema")
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)["services"]
    assert read["patient"]["deploy"]["replicas"] == 2
    assert read["gateway"]["deploy"]["mode"] == "global"


def test_it_is_the_system_of_the_seed() -> None:
    """Two patients on one database, a gateway on every node, updates two seconds apart that are rolled back."""
    assert services["patient"]["deploy"]["replicas"] == 2
    assert services["gateway"]["deploy"]["mode"] == "global"
    assert services["patient-database"]["deploy"]["replicas"] == 1
    for name in (*REPLICATED, "reception", "gateway"):
        update = services[name]["deploy"]["update_config"]
        assert {key: update[key] for key in ("delay", "failure_action", "order")} == {
            "delay": "2s",
            "failure_action": "rollback",
            "order": "start-first",
        }
    assert "nats" in services
    assert "registry" in services


@pytest.mark.parametrize("name", ["reception", "ward", "finance"])
def test_who_sends_messages_is_told_where_the_broker_is(name: str) -> None:
    """It is a service of the stack, on a network that both are in."""
    broker = broker_of_url(option(name, "--broker"))
    assert isinstance(broker, NatsBroker)
    host = option(name, "--broker").removeprefix("nats://").partition(":")[0]
    assert set(services[host]["networks"]) & set(services[name]["networks"])


@pytest.mark.parametrize("name", services)
def test_every_service_has_limits_and_a_way_to_say_that_it_is_ill(name: str) -> None:
    """One that runs wild takes nobody with it; one that hangs is replaced."""
    service = services[name]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert service["deploy"]["restart_policy"]["condition"] == "any"
    assert "healthcheck" in service or name in hospital  # ours is in the image
    assert ":" in service["image"]
    assert not service["image"].endswith(":latest")


@pytest.mark.parametrize("name", hospital)
def test_our_containers_can_do_little(name: str) -> None:
    """Nothing is written but in memory, no capability, no password on a command line or in the environment."""
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["tmpfs"] == ["/tmp"]
    assert "password" not in json.dumps([service["command"], service["environment"]]).lower()


@pytest.mark.parametrize("name", [name for name in hospital if name != "registry"])
def test_who_stops_has_the_time_that_it_takes(name: str) -> None:
    """Drain, end what is under way, leave the registry: all of it before SIGKILL, with half of it to spare."""
    assert seconds(services[name]["stop_grace_period"]) >= 1.5 * (DRAIN + _LEAVING)


def test_callers_hear_of_a_leaving_replica_while_it_drains() -> None:
    """They ask more often than it waits; the addresses of the registry and of its port are those of its service."""
    for name in hospital:
        url = services[name]["environment"]["RESILIENT_DISCOVERY"]
        interval = float(re.search(r"fetch_interval=([\d.]+)", url)[1])  # type: ignore[index]  # there must be one
        assert 1.1 * interval < DRAIN
        assert url.startswith(f"eureka://registry:{option('registry', '--port')}?")
        Registry.from_url(url)  # its options are known and make sense


def test_whoever_is_named_is_there_and_can_be_reached() -> None:
    """Networks, secrets, configs and volumes are declared and used; names in Prometheus are services it can reach."""
    for kind in ("networks", "secrets", "volumes", "configs"):
        used = set()
        for service in services.values():
            for one in service.get(kind, []):
                used.add(one["source"] if isinstance(one, dict) else one.partition(":")[0])
        assert {one for one in used if not one.startswith("/")} == set(document[kind]), kind
    for config in document["configs"].values():
        assert (DEPLOY / config["file"]).is_file()
    for name in (*REPLICATED, "reception"):
        assert services[name]["secrets"] == [f"{name}_url"]
        assert set(services[f"{name}-database"]["networks"]) & set(services[name]["networks"])
        assert option(name, "--database") == f"@/run/secrets/{name}_url"
    for name in hospital:
        assert set(services[name]["networks"]) & set(services["registry"]["networks"])


def test_prometheus_finds_them_as_it_does_in_the_tests_with_a_real_one(tmp_path: Path) -> None:
    """Its configuration is what the code writes for `tasks.*`, and promtool takes it together with the alerts."""
    text = (DEPLOY / "prometheus.yml").read_text()
    read = yaml.safe_load(text)
    names = [job["job_name"] for job in read["scrape_configs"]]
    served = [name.removeprefix("tasks.") for name in names]
    assert set(served) == {*REPLICATED, "reception", "gateway"}
    for name in served:
        assert option(name, "--port") == "8080"
        assert set(services[name]["networks"]) & set(services["prometheus"]["networks"])
    receiver = read["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"][0]
    written = json.loads(configuration(names=names, port=8080, receiver=receiver, interval=5.0))
    assert {**written, "rule_files": ["alerts.yml"]} == read
    name, _, port = receiver.partition(":")
    assert option(name, "--port") == port
    (tmp_path / "prometheus.yml").write_text(text)
    shutil.copy(ALERTS, tmp_path / "alerts.yml")
    promtool = require_command("promtool", package="prometheus")
    done = subprocess.run(
        [promtool, "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_message_dies_with_the_machine_of_the_broker() -> None:
    """The server takes its configuration: what it confirms is on the disk, in the volume."""
    text = (DEPLOY / "nats.conf").read_text()
    (config,) = services["nats"]["configs"]
    assert option("nats", "--config") == config["target"]
    assert document["configs"][config["source"]]["file"] == "./nats.conf"
    assert re.search(r"^    sync_interval: always$", text, re.MULTILINE)
    store = re.search(r"^    store_dir: (\S+)$", text, re.MULTILINE)
    assert store
    assert [volume.partition(":")[2] for volume in services["nats"]["volumes"]] == [store[1]]
    assert any(f":{port}/" in services["nats"]["healthcheck"]["test"][-1] for port in re.findall(r"port: (\d+)", text))
    done = subprocess.run(
        [server_binary(), "--config", str(DEPLOY / "nats.conf"), "-t"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_autoscaler_scales_the_patients_within_what_the_swarm_keeps() -> None:
    """By the name that `docker stack deploy` gives in the README, on a manager, never below what the file says."""
    text = (DEPLOY / "README.md").read_text()
    names = set(re.findall(r"docker stack deploy -c deploy/docker-stack.yml (\w+)", text))
    assert {option("autoscaler", "--docker-service")} == {f"{name}_patient" for name in names}
    assert int(option("autoscaler", "--min")) == services["patient"]["deploy"]["replicas"]
    assert services["autoscaler"]["deploy"]["placement"]["constraints"] == ["node.role == manager"]
    assert [name for name, one in services.items() if "docker.sock" in str(one.get("volumes"))] == ["autoscaler"]


def test_the_readme_makes_every_secret_and_label_that_the_stack_needs() -> None:
    """Who follows it is missing nothing."""
    text = (DEPLOY / "README.md").read_text()
    made = re.search(r"for service in ([a-z ]+); do", text)
    assert made
    parts = itertools.product(made[1].split(), re.findall(r'docker secret create "\$\{service\}_(\w+)"', text))
    assert {f"{service}_{part}" for service, part in parts} == set(document["secrets"])
    labels = {
        constraint.removeprefix("node.labels.").replace(" == ", "=")
        for service in services.values()
        for constraint in service["deploy"].get("placement", {}).get("constraints", [])
        if constraint.startswith("node.labels.")
    }
    assert all(f"--label-add {label}" in text for label in labels)
    assert (ROOT / "deploy" / "Dockerfile").is_file()
