"""Scaling a swarm's service, against a server that answers as Docker's Engine does."""

from __future__ import annotations

import asyncio
import copy
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import uvicorn

from examples.hospital.scaling.autoscaler import ReplicaError
from examples.hospital.scaling.docker import DockerReplicas
from resilient import ConfigError
from tests.examples.weather_servers import served
from tests.hospital_scaling.docker_engine import API, SERVICE, Engine
from tests.waiting import wait_until


@asynccontextmanager
async def replicas_of(
    engine: Engine, service: str = "hospital_patient", within: float = 10.0
) -> AsyncIterator[DockerReplicas]:
    """Its replicas, over TCP."""
    with served(engine.app) as url:
        replicas = DockerReplicas(service, host=url.replace("http", "tcp"), ready_within=within)
        try:
            yield replicas
        finally:
            await replicas.close()


async def test_a_service_is_scaled_out_and_in() -> None:
    """Nothing but the number changes; more are there once their tasks run."""
    engine = Engine()
    async with replicas_of(engine) as replicas:
        assert await replicas.running() == 2
        await replicas.add()
        assert (engine.replicas, engine.running) == (3, 3)
        assert [one["name"] for one in replicas.listing()] == [f"hospital_patient.{slot}" for slot in (1, 2, 3)]
        await replicas.remove()
        assert await replicas.running() == 2
    expected = copy.deepcopy(SERVICE["Spec"])
    assert engine.service["Spec"] == expected
    assert all(path.startswith(f"/v{API}/") for path in engine.paths)


async def test_somebody_elses_change_is_not_lost() -> None:
    """An update that comes second is refused, and made anew from what is there now."""
    engine, rounds = Engine(), 0

    def label(engine: Engine) -> None:
        nonlocal rounds
        rounds += 1
        if rounds <= 2:
            engine.service["Spec"]["Labels"][f"by-hand-{rounds}"] = "yes"
            engine.touch()

    engine.meanwhile = label
    async with replicas_of(engine) as replicas:
        await replicas.add()
    assert engine.replicas == 3
    assert {"by-hand-1", "by-hand-2"} <= set(engine.service["Spec"]["Labels"])


async def test_a_service_that_is_changed_again_and_again_is_given_up() -> None:
    """Bounded: five tries, then a sentence."""
    engine = Engine()
    engine.meanwhile = Engine.touch
    async with replicas_of(engine) as replicas:
        with pytest.raises(ReplicaError, match="changed by somebody else"):
            await replicas.remove()
    assert engine.replicas == 2


async def test_a_task_that_does_not_start_is_told() -> None:
    """The swarm goes on trying; the autoscaler says what it waits for."""
    engine = Engine()
    engine.starts = False
    async with replicas_of(engine, within=0.7) as replicas:
        with pytest.raises(ReplicaError, match="2 of 3 tasks run after 0.7 s"):
            await replicas.add()


async def test_docker_s_own_words_are_passed_on() -> None:
    """An unknown service, a node that is no manager, a service in global mode, and nobody there."""
    engine = Engine()
    async with replicas_of(engine, service="nobody") as replicas:
        with pytest.raises(ReplicaError, match="404, service nobody not found"):
            await replicas.add()
    async with replicas_of(engine) as replicas:
        engine.manager = False
        with pytest.raises(ReplicaError, match="503, This node is not a swarm manager"):
            await replicas.running()
        engine.manager = True
        engine.service["Spec"]["Mode"] = {"Global": {}}
        with pytest.raises(ReplicaError, match="is no replicated service"):
            await replicas.add()
    nobody = DockerReplicas("x", host="tcp://127.0.0.1:1")
    with pytest.raises(ReplicaError, match="Docker does not answer: ConnectError"):
        await nobody.running()
    await nobody.close()


@pytest.mark.parametrize("host", ["/var/run/docker.sock", "http://x", "unix://", ""])
def test_a_host_that_cannot_be_is_refused(host: str) -> None:
    """With a sentence that says how it is written."""
    with pytest.raises(ConfigError, match="unix:///var/run/docker"):
        DockerReplicas("x", host=host)


@contextmanager
def on_a_socket(engine: Engine) -> Iterator[Path]:
    """The engine on a unix socket, as Docker's own."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are too long for a socket's address
        path = Path(folder) / "docker.sock"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        server = uvicorn.Server(uvicorn.Config(engine.app, log_config=None, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            wait_until(lambda: server.started, what="the engine's start")
            yield path
        finally:
            server.should_exit = True
            thread.join(10.0)
            listener.close()


async def test_dockers_own_socket_is_spoken_to() -> None:
    """The default is a unix socket."""
    engine = Engine()
    with on_a_socket(engine) as path:
        replicas = DockerReplicas("hospital_patient", host=f"unix://{path}")
        await asyncio.wait_for(replicas.add(), 10.0)
        assert engine.replicas == 3
        await replicas.close()
