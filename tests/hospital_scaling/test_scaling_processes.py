"""Real processes under load: scaled out and in, replaced, updated and rolled back, and no user sees an error."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from examples.hospital.load.result import UNFINISHED, Result
from examples.hospital.scaling.alerts import Alert
from examples.hospital.scaling.autoscaler import Autoscaler, ReplicaError
from examples.hospital.scaling.listing import EurekaListing
from examples.hospital.scaling.local import Version
from examples.hospital.scaling.rolling import rolling_update
from examples.hospital.scaling.target import Limits
from examples.support.processes import Service
from tests.hospital_scaling.under_load import UnderLoad, ask, fleet, until, version

QUICK = {"name": "patient", "linger": 0.3}


@dataclass(frozen=True)
class Moody(Version):
    """A version each of whose processes is another one."""

    starts: list[Version] = field(default_factory=list)

    def start(self, name: str, logs: Path) -> Service:
        return self.starts.pop(0).start(name, logs)


def no_user_saw_an_error(result: Result) -> bool:
    """All answers are good; what was given up is what was under way when the test ended the load."""
    return set(result.errors) <= {UNFINISHED} and set(result.statuses) == {200}


async def test_scaling_out_and_in_and_a_crash_cost_no_request(tmp_path: Path) -> None:
    """The alert adds one, a killed one is replaced, quiet takes the newest away; every request has its answer."""
    async with fleet(tmp_path, 2, **QUICK) as (registry, replicas):
        limits = Limits(2, 3, cooldown=0.2, quiet=0.5)
        scaler = Autoscaler(replicas, limits, interval=0.1)
        loop, load = asyncio.create_task(scaler.run()), UnderLoad(registry)
        await load.until_served_by("patient-1", "patient-2")
        scaler.heard([Alert("PatientBusy", "a", 1.0, firing=True)])
        await load.until_served_by("patient-3")
        assert [one.name for one in replicas.live] == ["patient-1", "patient-2", "patient-3"]
        replicas.live[0].process.kill()
        await load.until_served_by("patient-4")
        assert [one.name for one in replicas.live] == ["patient-2", "patient-3", "patient-4"]
        scaler.heard([Alert("PatientBusy", "a", 1.0, firing=False)])
        await until(lambda: len(replicas.live) == 2)
        await load.more()
        assert [one.name for one in replicas.live] == ["patient-2", "patient-3"]
        loop.cancel()
        await asyncio.wait({loop})
        result = await load.end()
    assert no_user_saw_an_error(result), (result.errors, result.statuses)
    assert result.answers > 100


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


async def test_a_rolling_update_under_load_is_not_seen(tmp_path: Path) -> None:
    """Three replicas become three of the next version; all requests are answered, at the end by the new ones only."""
    async with fleet(tmp_path, 3, **QUICK) as (registry, replicas):
        load = UnderLoad(registry)
        await load.until_served_by("patient-1", "patient-2", "patient-3")
        update = await rolling_update(replicas, version(registry, "2"), monitor=0.2)
        assert update.done, update.why
        assert update.replaced == ["patient-1", "patient-2", "patient-3"]
        assert [one.name for one in replicas.live] == ["patient-4", "patient-5", "patient-6"]
        await load.until_served_by("patient-4", "patient-5", "patient-6")
        versions = {(await ask(one.address, "/patient/1")).headers["X-Version"] for one in replicas.live}
        assert versions == {"2"}
        result = await load.end()
        assert (await replicas.start()).version == replicas.version == version(registry, "2")
    assert no_user_saw_an_error(result), (result.errors, result.statuses)


async def test_a_version_that_cannot_start_leaves_the_old_ones_alone(tmp_path: Path) -> None:
    """The reason has the end of its log."""
    async with fleet(tmp_path, 2, **QUICK) as (registry, replicas):
        before = list(replicas.live)
        update = await rolling_update(replicas, version(registry, "2", "--broken", "ends"))
        assert not update.done
        assert "this version can not even start" in update.why
        assert (update.replaced, update.left, replicas.live) == ([], [], before)
        assert replicas.version == version(registry)


@pytest.mark.timeout(90)
async def test_a_version_that_is_no_good_is_rolled_back_under_load(tmp_path: Path) -> None:
    """Never healthy: the old ones stay. Healthy only for a moment: those that were replaced come back."""
    async with fleet(tmp_path, 2, ready_within=3.0, **QUICK) as (registry, replicas):
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
    async with fleet(tmp_path, 2, ready_within=2.0, **QUICK) as (registry, replicas):
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
        with pytest.raises(ReplicaError, match="does not answer"):
            await replicas.remove()
        assert await replicas.running() == 1


async def test_one_that_does_not_end_is_killed(tmp_path: Path) -> None:
    """A frozen process cannot be asked."""
    async with fleet(tmp_path, 1, stop_within=0.5, **QUICK) as (_, replicas):
        (replica,) = replicas.live
        os.kill(replica.process._process.pid, signal.SIGSTOP)
        await replicas.stop(replica)
        assert not replica.process.running
