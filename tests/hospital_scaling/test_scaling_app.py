"""What the autoscaler is told over HTTP, and what it says of itself."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.hospital.scaling.alerts import UnreadableError, read_api, read_webhook
from examples.hospital.scaling.app import make_app
from examples.hospital.scaling.autoscaler import Autoscaler
from examples.hospital.scaling.target import Limits
from resilient import ConfigError
from resilient.testing import VirtualClock
from tests.hospital_scaling.test_scaling_core import Counted

# As Alertmanager 0.25 sends it, times with nanoseconds and Go's zero time included.
WEBHOOK: Mapping[str, Any] = {
    "receiver": "autoscaler",
    "status": "firing",
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "PatientBusy", "service": "patient", "severity": "info"},
            "annotations": {"summary": "The patient service is busy"},
            "startsAt": "2026-11-25T09:52:26.739266876+02:00",
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://prometheus:9090/graph?g0.expr=up",
            "fingerprint": "1a30ba71cca2921f",
        }
    ],
    "groupLabels": {"alertname": "PatientBusy"},
    "commonLabels": {"alertname": "PatientBusy", "service": "patient", "severity": "info"},
    "commonAnnotations": {"summary": "The patient service is busy"},
    "externalURL": "http://alertmanager:9093",
    "version": "4",
    "groupKey": '{}:{alertname="PatientBusy"}',
    "truncatedAlerts": 0,
}
NOW = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)


def _api(*, ends: float) -> list[dict[str, Any]]:
    """As Prometheus 2.42 posts it."""
    return [
        {
            "annotations": {"summary": "The patient service is busy"},
            "endsAt": (datetime.now(UTC) + timedelta(seconds=ends)).isoformat().replace("+00:00", "Z"),
            "startsAt": "2026-11-25T07:52:26.739Z",
            "generatorURL": "http://prometheus:9090/graph?g0.expr=up&g0.tab=1",
            "labels": {"alertname": "PatientBusy", "service": "patient", "severity": "info"},
        }
    ]


class Running:
    """An autoscaler that runs in virtual time, and a client that speaks to it."""

    def __init__(self, clock: VirtualClock, token: str | None = None) -> None:
        self.clock = clock
        self.replicas = Counted(clock)
        self.scaler = Autoscaler(
            self.replicas, Limits(1, 3, cooldown=5.0, quiet=20.0), alert="PatientBusy", clock=clock
        )
        self.app = make_app(self.scaler, self.replicas, token=token)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://autoscaler")

    async def pass_(self, seconds: int) -> None:
        for _ in range(seconds):
            await self.clock.advance_async(1.0)

    async def state(self) -> Any:
        answer = await self.http.get("/actuator/health")
        return answer.json()["components"]["scaling"]["details"]


@asynccontextmanager
async def running(clock: VirtualClock, token: str | None = None) -> AsyncIterator[Running]:
    """It starts and ends as a server would have it."""
    one = Running(clock, token)
    async with one.app.router.lifespan_context(one.app), one.http:
        await one.pass_(5)
        yield one
    assert one.replicas.closed


async def test_alertmanagers_webhook_scales_out_and_in(clock: VirtualClock) -> None:
    """Firing adds until the most there may be; resolved takes away after quiet, down to the least."""
    async with running(clock) as one:
        assert one.replicas.count == 1
        answer = await one.http.post("/webhook", json=WEBHOOK)
        assert (answer.status_code, answer.json()) == (200, {"alerts": 1, "heard": 1})
        await one.pass_(30)
        assert one.replicas.count == 3
        state = await one.state()
        assert (state["running"], state["wanted"], state["firing"]) == (3, 3, True)
        resolved = {**WEBHOOK, "status": "resolved", "alerts": [{**WEBHOOK["alerts"][0], "status": "resolved"}]}
        await one.http.post("/webhook", json=resolved)
        await one.pass_(60)
        assert one.replicas.count == 1


async def test_a_prometheus_can_post_its_alerts_directly(clock: VirtualClock) -> None:
    """Its messages say when an alert is over if it is not repeated; a time that has passed is an end."""
    async with running(clock) as one:
        await one.http.post("/api/v2/alerts", json=_api(ends=240.0))
        await one.pass_(30)
        assert one.replicas.count == 3
        assert (await one.http.post("/api/v2/alerts", json=_api(ends=-1.0))).status_code == 200
        assert not (await one.state())["firing"]
        await one.pass_(60)
        assert one.replicas.count == 1


async def test_it_says_that_it_is_well(clock: VirtualClock) -> None:
    """Liveness looks at the loop, the report at how many there are."""
    async with running(clock) as one:
        answer = await one.http.get("/actuator/health")
        assert (answer.status_code, answer.json()["status"]) == (200, "UP")
        assert (await one.http.get("/actuator/health/liveness")).status_code == 200
        state = await one.state()
        assert (state["minimum"], state["maximum"], state["replicas"]) == (1, 3, [{"name": "0"}])
        assert state["events"][0]["what"] == "started number 1"


async def test_only_who_has_the_token_is_heard(clock: VirtualClock) -> None:
    """Without it anybody in the network could start processes."""
    async with running(clock, token="secret") as one:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            answer = await one.http.post("/webhook", json=WEBHOOK, headers=headers)
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        odd = await one.http.post("/webhook", json=WEBHOOK, headers={b"Authorization": b"Bearer s\xe9cret"})
        assert odd.status_code == 401
        assert not (await one.state())["firing"]
        good = await one.http.post("/webhook", json=WEBHOOK, headers={"Authorization": "bearer secret"})
        assert good.status_code == 200
    for token in ("", " x", "gehéim"):
        with pytest.raises(ConfigError, match="printable ASCII"):
            make_app(one.scaler, one.replicas, token=token)


def _with(**changes: Any) -> bytes:
    return json.dumps({**WEBHOOK, **changes}).encode()


def _alert_with(**changes: Any) -> bytes:
    return _with(alerts=[{**WEBHOOK["alerts"][0], **changes}])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[]", "a JSON object"),
        (_with(version="3"), "version must be '4', not '3'"),
        (_with(version=None), "version must be '4', not None"),
        (_with(alerts={}), "must be a list"),
        (_with(alerts=[WEBHOOK["alerts"][0]] * 1001), "more than 1000"),
        (_with(alerts=["x"]), r"alerts[0] must be an object"),
        (_alert_with(status="maybe"), "alerts[0].status must be 'firing' or 'resolved', not 'maybe'"),
        (_alert_with(status=[]), "alerts[0].status must be 'firing' or 'resolved', not []"),
        (_alert_with(labels=None), "alerts[0].labels must be an object"),
        (_alert_with(labels={}), "1 to 100 labels"),
        (_alert_with(labels={"alertname": 7}), "each of them text"),
        (_alert_with(startsAt="yesterday"), "alerts[0].startsAt must be a time as in RFC 3339"),
        (_alert_with(startsAt="2026-11-25T09:52:26"), "must be a time as in RFC 3339"),
        (_alert_with(startsAt=[1] * 1000), "..."),
    ],
)
async def test_what_is_no_message_is_refused_with_a_sentence(clock: VirtualClock, body: bytes, says: str) -> None:
    """400, and nothing is scaled."""
    async with running(clock) as one:
        answer = await one.http.post("/webhook", content=body)
        assert answer.status_code == 400
        assert says in answer.json()["error"]
        assert not (await one.state())["firing"]


async def test_a_message_that_is_too_long_is_not_read(clock: VirtualClock) -> None:
    """413, after a megabyte."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 100_000
            yield b" " * 100_000

    async with running(clock) as one:
        answer = await one.http.post("/api/v2/alerts", content=endless())
    assert answer.status_code == 413
    assert sent < 2_000_000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*WEBHOOK, "labels"]), inner),
    max_leaves=20,
)


@settings(deadline=None, max_examples=300)
@given(JSON | st.fixed_dictionaries({"version": st.just("4"), "alerts": JSON}))
def test_no_document_breaks_the_readers(document: Any) -> None:
    """Any JSON is either read or refused with a sentence."""
    for read in (read_webhook, read_api):
        with contextlib.suppress(UnreadableError):
            read(json.dumps(document).encode(), now=NOW.timestamp())


def test_the_same_alert_has_the_same_key_in_both_forms() -> None:
    """An Alertmanager and a Prometheus may both tell of it."""
    (first,) = read_webhook(json.dumps(WEBHOOK).encode(), now=NOW.timestamp())
    (second,) = read_api(json.dumps(_api(ends=60.0)).encode(), now=datetime.now(UTC).timestamp())
    assert first.key == second.key
    assert (first.name, first.firing, first.ends_in) == ("PatientBusy", True, None)
    assert second.ends_in == pytest.approx(60.0, abs=1.0)
    assert first.starts_at == pytest.approx(second.starts_at, abs=0.001)
