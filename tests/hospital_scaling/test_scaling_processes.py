"""Real processes under load: scaled out and in, replaced, updated and rolled back, and no user sees an error."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from examples.hospital.scaling.alerts import Alert
from examples.hospital.scaling.autoscaler import Autoscaler, ReplicaError
from examples.hospital.scaling.listing import EurekaListing
from examples.hospital.scaling.local import LocalReplicas, Version
from examples.hospital.scaling.rolling import rolling_update
from examples.hospital.scaling.target import Limits
from examples.support.processes import Service
from resilient.gateway import Gateway
from tests.examples.weather_servers import served
from tests.hospital_scaling.under_load import (
    TIMES,
    UnderLoad,
    ask,
    fleet,
    no_user_saw_an_error,
    scaling,
    until,
    version,
)
from tests.servers import RegistryProcess

pytestmark = pytest.mark.timeout(120)  # each starts up to seven processes, on a machine that may be busy
QUICK = {"name": "patient", "linger": 0.3}


@dataclass(frozen=True)
class Moody(Version):
    """A version each of whose processes is another one."""

    starts: list[Version] = field(default_factory=list)

    def start(self, name: str, logs: Path) -> Service:
        return self.starts.pop(0).start(name, logs)


async def test_scaling_out_and_in_and_a_crash_cost_no_request(tmp_path: Path) -> None:
    """The alert adds one, a killed one is replaced, quiet takes the newest away; every request has its answer."""
    async with fleet(tmp_path, 2, **QUICK) as (registry, replicas):
        scaler = Autoscaler(replicas, Limits(2, 3, cooldown=0.2, quiet=0.5), interval=0.1)

        async def until_there_are(*numbers: int) -> None:
            await until(lambda: [one.number for one in replicas.live] == list(numbers))

        async with scaling(scaler):
            load = UnderLoad(registry)
            await load.until_served_by("patient-1", "patient-2")
            scaler.heard([Alert("PatientBusy", "a", 1.0, firing=True)])
            await until_there_are(1, 2, 3)
            await load.until_served_by("patient-3")
            replicas.live[0].process.kill()
            await until_there_are(2, 3, 4)
            await load.until_served_by("patient-4")
            scaler.heard([Alert("PatientBusy", "a", 1.0, firing=False)])
            await until_there_are(2, 3)
            await load.more()
        result = await load.end()
    assert no_user_saw_an_error(result), (result.errors, result.statuses)
    assert result.answers > 50


async def test_what_is_about_to_start_ends_with_the_rest(tmp_path: Path) -> None:
    """Nothing is left behind, however early the end comes."""
    with RegistryProcess() as server:
        registry = server.url + TIMES
        never = version(registry, "1", "--broken", "never healthy")
        replicas = LocalReplicas(never, EurekaListing(registry, "patient"), logs=tmp_path, name="patient")
        starting = asyncio.create_task(replicas.start())
        await until(lambda: (tmp_path / "patient-1.log").exists())
        await replicas.close()
        with pytest.raises(ReplicaError, match="ended"):
            await starting


async def test_a_request_that_is_open_when_its_replica_is_drained_is_answered(tmp_path: Path) -> None:
    """Off the list first; the process ends only after the answer."""
    async with fleet(tmp_path, 1, **QUICK) as (_, replicas):
        (replica,) = replicas.live
        slow = asyncio.create_task(ask(replica.address, "/patient/1?takes=1.5"))
        await asyncio.sleep(0.1)  # it has been sent
        await replicas.stop(replica)
        answer = await slow
        assert (answer.status_code, answer.headers["X-Served-By"]) == (200, "patient-1")
        assert not replica.process.running
        assert await replicas.running() == 0


@contextmanager
def gateway_to(registry: str, name: str) -> Iterator[str]:
    """Where users ask: the service by its name, or a gateway in front of it."""
    if name == "the transport":
        yield "http://patient"
        return
    with served(Gateway({"patient": {"path": "/patient", "service": "patient"}}, discovery=registry)) as url:
        yield url


@pytest.mark.parametrize("through", ["the transport", "the gateway"])
async def test_a_rolling_update_under_load_is_not_seen(tmp_path: Path, through: str) -> None:
    """Two replicas become two of the next version; all requests are answered, at the end by the new ones only."""
    async with fleet(tmp_path, 2, **QUICK) as (registry, replicas):
        with gateway_to(registry, through) as url:
            load = UnderLoad(registry, url=url)
            await load.until_served_by("patient-1", "patient-2")
            update = await rolling_update(replicas, version(registry, "2"), monitor=0.2)
            assert update.done, update.why
            assert update.replaced == ["patient-1", "patient-2"]
            assert [one.name for one in replicas.live] == ["patient-3", "patient-4"]
            await load.until_served_by("patient-3", "patient-4")
            versions = {(await ask(one.address, "/patient/1")).headers["X-Version"] for one in replicas.live}
            assert versions == {"2"}
            assert replicas.version == version(registry, "2")
            result = await load.end()
    assert no_user_saw_an_error(result), (result.errors, result.statuses)
    assert result.answers > 50


async def test_processes_of_somebody_else_are_updated_and_given_back(tmp_path: Path) -> None:
    """`adopt` takes them in, `release` lets them live on."""
    async with fleet(tmp_path, 1, **QUICK) as (registry, owner):
        (old,) = await owner.release()
        replicas = LocalReplicas(version(registry), EurekaListing(registry, "patient"), logs=tmp_path, name="new")
        replicas.adopt(old)
        update = await rolling_update(replicas, version(registry, "2"), monitor=0.2)
        assert (update.done, update.replaced) == (True, ["patient-1"])
        (new,) = await replicas.release()
        try:
            assert (old.running, new.running, new.name) == (False, True, "new-2")
        finally:
            new.stop()


async def test_a_version_that_cannot_start_leaves_the_old_ones_alone(tmp_path: Path) -> None:
    """The reason has the end of its log."""
    async with fleet(tmp_path, 2, **QUICK) as (registry, replicas):
        before = list(replicas.live)
        update = await rolling_update(replicas, version(registry, "2", "--broken", "ends"))
        assert not update.done
        assert "this version can not even start" in update.why
        assert (update.replaced, update.left, replicas.live) == ([], [], before)
        assert replicas.version == version(registry)


async def test_a_version_that_is_no_good_is_rolled_back_under_load(tmp_path: Path) -> None:
    """Never healthy: the old ones stay. Healthy only for a moment: those that were replaced come back."""
    async with fleet(tmp_path, 2, ready_within=5.0, **QUICK) as (registry, replicas):
        load = UnderLoad(registry)
        await load.until_served_by("patient-1", "patient-2")
        update = await rolling_update(replicas, version(registry, "2", "--broken", "never healthy"))
        assert not update.done
        assert "is not healthy: /actuator/health answers 503" in update.why
        assert [one.name for one in replicas.live] == ["patient-1", "patient-2"]
        assert "patient-3" not in load.result.served_by

        update = await rolling_update(replicas, version(registry, "2", "--broken", "soon unhealthy"), monitor=3.0)
        assert not update.done
        assert "is not healthy" in update.why
        assert update.left == []
        assert [one.name for one in replicas.live] == ["patient-1", "patient-2"]
        await load.more()
        result = await load.end()
    assert no_user_saw_an_error(result), (result.errors, result.statuses)


async def test_replicas_that_were_replaced_come_back(tmp_path: Path) -> None:
    """The second replacement fails: the first is undone, and there are as many as before, of the old version."""
    async with fleet(tmp_path, 2, ready_within=5.0, **QUICK) as (registry, replicas):
        bad = version(registry, "2", "--broken", "never healthy")
        load = UnderLoad(registry)
        update = await rolling_update(replicas, Moody("", starts=[version(registry, "2"), bad]), monitor=0.2)
        assert not update.done
        assert update.replaced == ["patient-1"]
        assert update.left == []
        versions = [(await ask(one.address, "/patient/1")).headers["X-Version"] for one in replicas.live]
        assert versions == ["1", "1"]
        await load.more()
        result = await load.end()
    assert no_user_saw_an_error(result), (result.errors, result.statuses)


async def test_while_the_registry_is_away_nobody_is_drained(tmp_path: Path) -> None:
    """Callers could not be told: the replica stays."""
    async with fleet(tmp_path, 1, **QUICK) as (_, replicas):
        await replicas._listing.close()
        replicas._listing = EurekaListing("eureka://127.0.0.1:1", "patient")
        with pytest.raises(ReplicaError, match="has not answered"):
            await replicas.remove()
        assert await replicas.running() == 1


async def test_one_that_does_not_end_is_killed(tmp_path: Path) -> None:
    """A frozen process cannot be asked."""
    async with fleet(tmp_path, 1, stop_within=0.5, **QUICK) as (_, replicas):
        (replica,) = replicas.live
        os.kill(replica.process._process.pid, signal.SIGSTOP)
        await replicas.stop(replica)
        assert not replica.process.running
