"""One registry of each kind, as a test can treat it: filled, emptied, killed, hung, brought back."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from tests.consul_agent import ConsulAgent
from tests.dnsmasq import Dnsmasq
from tests.etcd_server import EtcdServer
from tests.scripted_kubernetes import ScriptedKubernetes, endpoint, slice_of


class Rig:
    """`with SomeRig() as rig: Discovery.from_url(rig.url)`; `producer` and `other` are the services it can list.

    Attributes:
        url: with options that make tests quick.
        can_hang: whether there is a process to stop.
        slack: seconds within which a change is seen.
    """

    url: str = ""
    can_hang: ClassVar[bool] = True
    slack: ClassVar[float] = 10.0

    def put(self, service: str, host: str, port: int) -> None:
        """List an instance; `host` is an address of 127.0.0.0/8."""
        raise NotImplementedError

    def drop(self, service: str, host: str, port: int) -> None:
        """List it no more."""
        raise NotImplementedError

    def spoil(self) -> str:
        """List one instance of `producer` that can not be read; returns words of the log's line about it."""
        raise NotImplementedError

    def entries(self) -> list[str]:
        """The ids that the registry itself lists; of registries that can be written."""
        raise NotImplementedError

    def start(self) -> None:
        """Run, on the same address as before, with the instances that are put."""
        raise NotImplementedError

    def kill(self) -> None:
        """As a crash would."""
        raise NotImplementedError

    def hang(self) -> None:
        """Accept, and answer nothing."""
        raise NotImplementedError

    def resume(self) -> None:
        """Go on after `hang`."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave nothing behind."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        self.close()


class FileRig(Rig):
    """A file; dead is away."""

    can_hang = False

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="services-")
        self.path = Path(self._folder.name) / "services.json"
        self.services: dict[str, list[Any]] = {}
        self.url = f"file://{self.path}?poll=0.1"
        self._up = False

    def write(self, text: str) -> None:
        """Replace the file, whole."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        os.replace(fresh, self.path)  # noqa: PTH105  # what the documents tell people to do

    def _changed(self) -> None:
        if self._up:
            self.write(json.dumps(self.services))

    def put(self, service: str, host: str, port: int) -> None:
        self.services.setdefault(service, []).append({"host": host, "port": port})
        self._changed()

    def drop(self, service: str, host: str, port: int) -> None:
        self.services[service].remove({"host": host, "port": port})
        self._changed()

    def spoil(self) -> str:
        self.services.setdefault("producer", []).insert(0, {"host": "127.0.0.9", "port": "none"})
        self._changed()
        return "port must be from 1 to 65535"

    def start(self) -> None:
        self._up = True
        self._changed()

    def kill(self) -> None:
        self._up = False
        self.path.unlink()

    def close(self) -> None:
        self._folder.cleanup()


class DnsRig(Rig):
    """A real nameserver with address records."""

    def __init__(self) -> None:
        self.server = Dnsmasq()
        self.lines: list[str] = []
        self.url = f"dns://{{service}}.ex.test:8001?nameserver={self.server.address}&timeout=0.4"

    def put(self, service: str, host: str, port: int) -> None:
        self.lines.append(f"{host} {service}.ex.test")
        self.server.hosts(self.lines)

    def drop(self, service: str, host: str, port: int) -> None:
        self.lines.remove(f"{host} {service}.ex.test")
        self.server.hosts(self.lines)

    def spoil(self) -> str:
        return ""  # nothing in an address record can be wrong

    def start(self) -> None:
        self.server.start()

    def kill(self) -> None:
        self.server.kill()

    def hang(self) -> None:
        self.server.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.server.signal(signal.SIGCONT)

    def close(self) -> None:
        self.server.__exit__(None, None, None)


class ConsulRig(Rig):
    """A real agent, which knows only what it is told while it runs."""

    def __init__(self) -> None:
        self.agent = ConsulAgent()
        self.listed: list[tuple[str, str, int]] = []
        self.url = f"consul://{self.agent.host}?wait=1&ttl=1.5"
        self._up = False

    def _register(self, service: str, host: str, port: int) -> None:
        body = {"ID": f"{host}:{service}:{port}", "Name": service, "Address": host, "Port": port}
        self.agent.ask("PUT", "/v1/agent/service/register", body)

    def put(self, service: str, host: str, port: int) -> None:
        self.listed.append((service, host, port))
        if self._up:
            self._register(service, host, port)

    def drop(self, service: str, host: str, port: int) -> None:
        self.listed.remove((service, host, port))
        self.agent.ask("PUT", f"/v1/agent/service/deregister/{host}:{service}:{port}")

    def spoil(self) -> str:
        self._register("producer", "127.0.0.9", 0)
        return "port must be from 1 to 65535, not 0"

    def entries(self) -> list[str]:
        return self.agent.ids()

    def start(self) -> None:
        self.agent.start()
        self._up = True
        for each in self.listed:
            self._register(*each)

    def kill(self) -> None:
        self._up = False
        self.agent.kill()

    def hang(self) -> None:
        self.agent.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.agent.signal(signal.SIGCONT)

    def close(self) -> None:
        self.agent.kill()


class EtcdRig(Rig):
    """A real etcd, which loses its data when it is killed."""

    def __init__(self) -> None:
        self.server = EtcdServer()
        self.listed: list[tuple[str, str, int]] = []
        self.url = f"etcd://{self.server.host}?ttl=2&watch=1"
        self._up = False

    def _key(self, service: str, host: str, port: int) -> str:
        return f"/services/{service}/{host}:{service}:{port}"

    def _register(self, service: str, host: str, port: int) -> None:
        self.server.put(self._key(service, host, port), {"host": host, "port": port})

    def put(self, service: str, host: str, port: int) -> None:
        self.listed.append((service, host, port))
        if self._up:
            self._register(service, host, port)

    def drop(self, service: str, host: str, port: int) -> None:
        self.listed.remove((service, host, port))
        self.server.delete(self._key(service, host, port))

    def spoil(self) -> str:
        self.server.put("/services/producer/bad", "no port")
        return "'no port' is no host:port"

    def entries(self) -> list[str]:
        return sorted(key.rpartition("/")[2] for key in self.server.keys("/services/"))

    def start(self) -> None:
        self.server.start()
        self._up = True
        for each in self.listed:
            self._register(*each)

    def kill(self) -> None:
        self._up = False
        self.server.kill()

    def hang(self) -> None:
        self.server.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.server.signal(signal.SIGCONT)

    def close(self) -> None:
        self.server.__exit__(None, None, None)


class KubernetesRig(Rig):
    """A scripted API server; each service has two slices."""

    def __init__(self) -> None:
        self.api = ScriptedKubernetes()
        self.api.start()  # for its port
        self.api.kill()
        self.listed: dict[str, list[str]] = {}
        self.url = f"kubernetes://default?api={self.api.url}&watch=1"

    def _changed(self, service: str) -> None:
        for number in range(2):
            these = [host for host in self.listed[service] if int(host.rpartition(".")[2]) % 2 == number]
            self.api.put(slice_of(f"{service}-{number}", service, *map(endpoint, these)))

    def put(self, service: str, host: str, port: int) -> None:
        self.listed.setdefault(service, []).append(host)
        self._changed(service)

    def drop(self, service: str, host: str, port: int) -> None:
        self.listed[service].remove(host)
        self._changed(service)

    def spoil(self) -> str:
        self.api.put(slice_of("producer-bad", "producer", {"addresses": []}))
        return "producer-bad[0]: it has no address"

    def start(self) -> None:
        self.api.start()

    def kill(self) -> None:
        self.api.kill()

    def hang(self) -> None:
        self.api.hung = True

    def resume(self) -> None:
        self.api.hung = False

    def close(self) -> None:
        self.api.hung = False
        self.api.kill()
