"""Requests to a registry server, byte for byte as a test says them."""

from __future__ import annotations

import http.client
import json
from typing import Any, NamedTuple

MY_OWN = {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"}
JSON = {"Accept": "application/json"}


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, *, chunked: bool = False
) -> Answer:
    """One request, byte for byte as given: no client library adds headers or normalises the path."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.putheader(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(data)))))
        connection.endheaders(iter([data[:7], data[7:]]) if chunked else data, encode_chunked=chunked)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def instance(name: str = "i-1", /, **said: Any) -> dict[str, Any]:
    """The body of a registration; `said` replaces fields of it."""
    return {"instance": {"instanceId": name, "hostName": "h", "app": "DEMO", "ipAddr": "10.0.0.1",
                         "dataCenterInfo": MY_OWN, "lastDirtyTimestamp": "1000", **said}}  # fmt: skip


def register(port: int, name: str = "i-1", /, **said: Any) -> None:
    """Register it, over HTTP."""
    body = instance(name, **said)
    answer = ask(port, "POST", f"/eureka/apps/{body['instance']['app']}", body, {"Content-Type": "application/json"})
    assert (answer.status, answer.body) == (204, b"")
