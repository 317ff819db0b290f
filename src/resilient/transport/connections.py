"""How connections are made: TLS, proxies, limits. Given once, shared by every pool of a transport."""

from __future__ import annotations

import importlib.util
import ssl
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from resilient.clock import forget_on_fork
from resilient.discovery import Instance
from resilient.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Connections:
    """What the constructor of a transport was told about connections; see there."""

    verify: ssl.SSLContext | bool = True
    cert: str | tuple[str, str] | None = None
    http2: bool = False
    limits: Any = None  # the library's Limits
    proxy: str | None = None
    trust_env: bool = True
    tls_name: str | None = None
    factory: Callable[..., object] | None = None
    http: Any = None  # the module httpx or httpx2
    _context: list[ssl.SSLContext] = field(default_factory=list[ssl.SSLContext])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def after_fork_in_child(self) -> None:
        """A new lock: another thread of the parent's may have been making the context."""
        object.__setattr__(self, "_lock", threading.Lock())

    def __post_init__(self) -> None:
        forget_on_fork(self)
        verify: object = self.verify
        if not isinstance(verify, (bool, ssl.SSLContext)):
            raise ConfigError(
                f"verify must be True, False or an ssl.SSLContext, not {self.verify!r};"
                " for a CA file: ssl.create_default_context(cafile=...)",
                path="verify",
            )
        if self.cert is not None and isinstance(self.verify, ssl.SSLContext):
            raise ConfigError("load cert into the SSLContext that verify is: load_cert_chain(...)", path="cert")
        if self.http2 and importlib.util.find_spec("h2") is None:
            raise ConfigError(
                f"http2=True needs the package h2: pip install '{self.http.__name__}[http2]'", path="http2"
            )
        if self.tls_name is not None and not self.tls_name:
            raise ConfigError("tls_name must be a host name, not an empty text", path="tls_name")
        if self.factory is None:
            return
        if not callable(self.factory):
            raise ConfigError(f"transport must be a function of an instance, not {self.factory!r}", path="transport")
        for path in ("cert", "limits", "proxy"):
            if getattr(self, path) is not None:
                raise ConfigError(
                    f"{path} does nothing beside transport=: give it to the transports you make", path=path
                )
        if self.http2 or self.verify is not True:
            path = "http2" if self.http2 else "verify"
            raise ConfigError(f"{path} does nothing beside transport=: give it to the transports you make", path=path)

    def proxy_for(self, scheme: str, host: str) -> str | None:
        """The proxy for a URL: the one given, else the environment's (HTTP_PROXY, ALL_PROXY, NO_PROXY …)."""
        if self.factory is not None:
            return None
        if self.proxy is not None or not self.trust_env:
            return self.proxy
        found = urllib.request.getproxies()
        proxy = found.get(scheme) or found.get("all")
        if not proxy or urllib.request.proxy_bypass(host):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"

    def sync(self, instance: Instance | None, scheme: str | None, proxy: str | None) -> Any:
        """A pool for functions."""
        if self.factory is not None:
            return _checked(self.factory(instance), self.http.BaseTransport)
        return self.http.HTTPTransport(**self._arguments(scheme, proxy))

    def asynchronous(self, instance: Instance | None, scheme: str | None, proxy: str | None) -> Any:
        """A pool for async functions."""
        if self.factory is not None:
            return _checked(self.factory(instance), self.http.AsyncBaseTransport)
        return self.http.AsyncHTTPTransport(**self._arguments(scheme, proxy))

    def _arguments(self, scheme: str | None, proxy: str | None) -> dict[str, Any]:
        return {
            "verify": self._context_for(scheme, proxy),
            "http2": self.http2,
            "limits": self.limits or self.http.Limits(max_connections=100, max_keepalive_connections=20),
            "proxy": proxy,
            "trust_env": self.trust_env,
        }

    def _context_for(self, scheme: str | None, proxy: str | None) -> ssl.SSLContext:
        if scheme == "http" and proxy is None:
            # Plain connections only: a context that knows no CA is made in 0.1 ms, one that does in 25 to 90 ms.
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with self._lock:  # one for all pools: a context costs 830 kB
            if not self._context:
                context = self.http.create_ssl_context(verify=self.verify, trust_env=self.trust_env)
                if self.cert is not None:
                    paths = (self.cert,) if isinstance(self.cert, str) else self.cert
                    context.load_cert_chain(*paths)
                self._context.append(context)
            return self._context[0]


def _checked(made: object, kind: type[Any]) -> Any:
    if not isinstance(made, kind):
        raise ConfigError(f"transport= must make a {kind.__name__}, not {made!r}", path="transport")
    return made
