"""Kubernetes as a registry: the pods behind each service of a namespace, from its EndpointSlices. Read only."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from resilient.clock import SYSTEM_CLOCK, Clock
from resilient.discovery.kubernetes_watch import KubernetesWatch
from resilient.discovery.live import LiveDiscovery
from resilient.discovery.servers import Servers
from resilient.discovery.steps import Auth, Server
from resilient.discovery.url_parts import one_of, read_url, seconds, text, wrong
from resilient.discovery.wire import AsyncWire, HttpWire

if TYPE_CHECKING:
    import ssl

    import httpx

OPTIONS: Final[dict[str, Any]] = {
    "api": (None, text),
    "token": (None, text),
    "ca": (None, text),
    "port": (None, text),
    "selector": (None, text),
    "family": ("any", one_of("4", "6", "any")),
    "watch": (60.0, seconds(1, 3600)),
}
_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # what every pod is given
_ATTEMPT = 5.0  # seconds for a request that is answered at once


class KubernetesDiscovery(LiveDiscovery):
    """The ready pods behind each service of a namespace.

    One watch for all services. In a pod the API server, the token and its authority are found by themselves; the token
    file is read anew for each request, since Kubernetes changes it. The service account needs the right to list and
    watch `endpointslices` of `discovery.k8s.io`.

    Args:
        url: `kubernetes://namespace` (none: the pod's own); options: `port` (the port's name or number; default the
            only one, or http, https, the first), `selector` (labels of the slices), `family` (4, 6 or any), `watch`
            (seconds after which a watch is begun anew, 1 … 3,600, default 60), and outside of a pod `api` (http or
            https), `token` and `ca` (paths of files).
        clock: default the machine's monotonic clock.

    Raises:
        ConfigError: when the URL or an option is wrong, or this is no pod and `api` is missing.

    Safe for threads and event loops.

    Example:
        >>> from resilient.discovery.kubernetes import KubernetesDiscovery
        >>> KubernetesDiscovery("kubernetes://shop?api=http://localhost:8001")  # behind `kubectl proxy`
        <KubernetesDiscovery kubernetes://shop 0 instances of 0 services>
    """

    watching = True

    def __init__(self, url: str = "kubernetes://", *, clock: Clock = SYSTEM_CLOCK) -> None:
        where = read_url(url, OPTIONS)
        if len(where.hosts) > 1 or where.path or where.user is not None or any(":" in host for host in where.hosts):
            wrong("kubernetes", "write kubernetes://NAMESPACE; the API server stands in the option api")
        namespace = where.hosts[0] if where.hosts else _own_namespace()
        options = where.options
        base = options["api"].rstrip("/") if options["api"] else _own_api()
        if not base.startswith(("http://", "https://")):
            wrong("kubernetes", f"api must begin with http:// or https://, not {base!r}", option="api")
        server = Server(base, cast("Auth", _Token(options["token"])))
        servers = Servers((server,), f"kubernetes://{namespace}", clock, _ATTEMPT)
        tls = _context(options["ca"]) if base.startswith("https:") else False
        super().__init__(servers, clock, (partial(HttpWire, tls=tls), partial(_wire, tls=tls)))
        source = KubernetesWatch(
            namespace,
            options["selector"],
            options["port"],
            options["family"],
            servers,
            self._roster,
            options["watch"],
            clock,
        )
        self._sources = (source,)


def _own_namespace() -> str:
    try:
        return (_ACCOUNT / "namespace").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        wrong("kubernetes", "this is no pod, so write the namespace: kubernetes://default")


def _own_api() -> str:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        wrong(
            "kubernetes",
            "this is no pod ($KUBERNETES_SERVICE_HOST is not set), so write where the API server is:"
            " kubernetes://default?api=https://host:6443",
            option="api",
        )
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


class _Token:
    """Who we are, read for each request: Kubernetes replaces the token about hourly. httpx takes it as auth=."""

    def __init__(self, path: str | None) -> None:
        self._given = path is not None
        self._path = Path(path) if path is not None else _ACCOUNT / "token"

    def __call__(self, request: httpx.Request) -> httpx.Request:
        if self._given or self._path.exists():  # else behind a proxy that knows who we are
            token = self._path.read_text(encoding="ascii").strip()
            request.headers["Authorization"] = f"Bearer {token}"
        return request


def _context(ca: str | None) -> ssl.SSLContext:
    import ssl

    own = _ACCOUNT / "ca.crt"
    path = ca or (str(own) if own.exists() else None)
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:
        wrong("kubernetes", f"ca {path!r} is no file of certificates: {error.strerror or error}", option="ca")


def _wire(*, tls: bool | ssl.SSLContext) -> AsyncWire:
    from resilient.discovery.streams import StreamingWire

    return StreamingWire(tls=tls)
