"""The weather consumer in this process: its page, its JSON, and its three ways to fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from examples.weather.browser import Browser, Seen
from examples.weather.consumer import make_app
from examples.weather.report import CAUTION, WeatherReport
from resilient.discovery import Discovery
from resilient.transport import AsyncResilientTransport
from tests.examples.weather_servers import served

HTML, JSON = {"Accept": "text/html"}, {"Accept": "application/json"}


class ScriptedProducers(httpx.AsyncBaseTransport):
    """Two producers that answer what the test wants; `down` ones refuse connections, slow ones take their time."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] | int = self.report()
        self.down = False
        self.delay = 0.0
        self.asked: list[httpx.URL] = []

    @staticmethod
    def report(**changes: Any) -> dict[str, Any]:
        known = WeatherReport(
            zip_code="94107",
            country="us",
            place="San Francisco",
            temperature=14.3,
            description="mist",
            humidity=81.0,
            wind=4.6,
            observed_at=datetime(2026, 3, 1, 12, 0, 7, tzinfo=UTC),
            producer="127.0.0.1:4001",
            circuit="closed",
        )
        return {**known.to_json(), **changes}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("refused", request=request)
        self.asked.append(request.url)
        await asyncio.sleep(self.delay)
        if isinstance(self.answer, int):
            return httpx.Response(self.answer, json={"error": "scripted"})
        return httpx.Response(200, json=self.answer)


@pytest.fixture
def producers() -> ScriptedProducers:
    return ScriptedProducers()


@pytest.fixture
async def page(producers: ScriptedProducers) -> AsyncIterator[httpx.AsyncClient]:
    async with Discovery.from_url("static://producer=127.0.0.1:4001,127.0.0.1:4002") as discovery:
        http = httpx.AsyncClient(transport=AsyncResilientTransport(discovery, transport=lambda _: producers))
        app = httpx.ASGITransport(make_app(http, discovery))
        async with http, httpx.AsyncClient(transport=app, base_url="http://consumer", headers=HTML) as client:
            yield client


async def look(page: httpx.AsyncClient, path: str = "/weather", **query: str) -> httpx.Response:
    return await page.get(path, params=query or {"zip": "94107"})


async def test_the_page_shows_the_weather(page: httpx.AsyncClient) -> None:
    """Place, temperature and words, who answered, and the states of both circuits."""
    answer = await look(page)
    assert answer.status_code == 200
    for text in ("San Francisco", "14.3", "Mist", "81 %", "4.6 m/s", "127.0.0.1:4001", ">closed<"):
        assert text in answer.text
    assert "CAUTION" not in answer.text


async def test_producers_are_asked_in_turn(page: httpx.AsyncClient, producers: ScriptedProducers) -> None:
    """The name `producer` becomes one address after the other."""
    for _ in range(4):
        await look(page, zip="e14", country="GB")
    assert sorted(url.port for url in producers.asked if url.port) == [4001, 4001, 4002, 4002]
    assert dict(producers.asked[0].params) == {"zip": "E14", "country": "gb"}


async def test_an_old_answer_is_marked_with_when_it_was_true(
    page: httpx.AsyncClient, producers: ScriptedProducers
) -> None:
    """The producer's words stand on the page, with the time of the observation."""
    producers.answer = producers.report(message=CAUTION, age=73.0, circuit="open")
    text = (await look(page)).text
    assert "CAUTION - Response out of date!" in text
    assert "1 Mar 2026, 12:00:07 UTC" in text
    assert "1 minute ago" in text
    assert ">open<" in text


async def test_without_producers_it_shows_what_it_has_seen(
    page: httpx.AsyncClient, producers: ScriptedProducers
) -> None:
    """Custom fallback: the last weather of that place, marked, and told by the page itself."""
    await look(page)
    producers.down = True
    found = (await page.get("/weather", params={"zip": "94107"}, headers=JSON)).json()
    assert (found["temperature"], found["message"], found["producer"]) == (14.3, CAUTION, "")
    assert "no producer answered" in (await look(page)).text


async def test_what_the_page_knows_is_better_than_an_empty_answer(
    page: httpx.AsyncClient, producers: ScriptedProducers
) -> None:
    """A producer that has just started knows nothing; that answer is replaced, and never remembered."""
    await look(page)
    producers.answer = producers.report(observed_at=None, place="", temperature=None)
    for _ in range(2):
        assert CAUTION in (await look(page)).text


async def test_when_nothing_is_known_it_says_so_kindly(page: httpx.AsyncClient, producers: ScriptedProducers) -> None:
    """No error page, no empty page: a sentence."""
    producers.down = True
    answer = await look(page)
    assert answer.status_code == 200
    assert "Nothing is known about 94107, US right now" in answer.text


async def test_fail_fast(page: httpx.AsyncClient, producers: ScriptedProducers) -> None:
    """/weather/strict hands on the error at once: 503, for browsers and for programs."""
    await look(page)
    producers.delay = 5.0
    answer = await look(page, "/weather/strict")
    assert answer.status_code == 503
    assert "CallTimeoutError" in answer.text
    producers.delay, producers.down = 0.0, True
    answer = await page.get("/weather/strict", params={"zip": "94107"}, headers=JSON)
    assert answer.status_code == 503
    assert "ConnectError" in answer.json()["error"]


async def test_an_open_circuit_says_when_to_come_back(page: httpx.AsyncClient, producers: ScriptedProducers) -> None:
    """Fail fast with an open circuit asks nobody and has a Retry-After."""
    producers.answer = 500
    for _ in range(5):
        await look(page, "/weather/strict")
    asked = len(producers.asked)
    answer = await look(page, "/weather/strict")
    assert answer.status_code == 503
    assert 1 <= int(answer.headers["Retry-After"]) <= 7
    assert len(producers.asked) == asked


async def test_fail_silent(page: httpx.AsyncClient, producers: ScriptedProducers) -> None:
    """/weather/silent answers without weather and without an error."""
    await look(page)
    producers.delay = 5.0
    answer = await page.get("/weather/silent", params={"zip": "94107"}, headers=JSON)
    assert answer.status_code == 200
    assert (answer.json()["temperature"], answer.json()["message"]) == (None, "")


@pytest.mark.parametrize("path", ["/weather", "/weather/strict", "/weather/silent"])
async def test_an_unknown_place_is_not_found(page: httpx.AsyncClient, producers: ScriptedProducers, path: str) -> None:
    """404 is the user's mistake on every page, and opens no circuit."""
    producers.answer = 404
    for _ in range(8):
        answer = await look(page, path)
        assert answer.status_code == 404
        assert "We know no place with the code 94107 in US." in answer.text
    assert set((await page.get("/state")).json()["circuits"].values()) == {"closed"}


@pytest.mark.parametrize(("query", "field"), [({"zip": "x"}, "zip"), ({"zip": "94107", "country": "usa"}, "country")])
async def test_bad_input_is_explained_beside_the_field(
    page: httpx.AsyncClient, producers: ScriptedProducers, query: dict[str, str], field: str
) -> None:
    """400, what was typed is kept, the field is marked for eyes and screen readers; nobody is asked."""
    answer = await look(page, **query)
    assert answer.status_code == 400
    assert f'aria-describedby="{field}-problem"' in answer.text
    assert f'value="{query[field]}"' in answer.text
    assert not producers.asked
    answer = await page.get("/weather", params=query, headers=JSON)
    assert answer.status_code == 400
    assert field in answer.json()["problems"]


async def test_everything_is_escaped(page: httpx.AsyncClient, producers: ScriptedProducers) -> None:
    """Neither what a user types nor what a producer says becomes markup, and the policy forbids scripts anyway."""
    evil = '"><script>alert(1)</script>'
    typed = await look(page, zip=evil, country=evil)
    producers.answer = producers.report(place=evil, description=evil, producer=evil, circuit=evil, message=evil)
    said = await look(page)
    for answer in (typed, said):
        assert "<script" not in answer.text
        assert "&lt;script&gt;" in answer.text
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none';")


async def test_a_producer_that_talks_nonsense_is_a_failure(
    page: httpx.AsyncClient, producers: ScriptedProducers
) -> None:
    """What is no weather report is neither shown nor remembered."""
    await look(page)
    producers.answer = {"temperature": "<b>"}
    assert CAUTION in (await look(page)).text


async def test_other_addresses_are_not_found(page: httpx.AsyncClient) -> None:
    """An address that is none leads back to the search."""
    answer = await page.get("/nowhere")
    assert answer.status_code == 404
    assert 'role="search"' in answer.text


async def test_the_state_is_there_for_programs(page: httpx.AsyncClient) -> None:
    """/state lists the circuits and the producers, /health says that it runs."""
    assert (await page.get("/state")).json() == {
        "circuits": {"weather": "closed", "weather-strict": "closed", "weather-silent": "closed"},
        "producers": ["127.0.0.1:4001", "127.0.0.1:4002"],
    }
    assert (await page.get("/health")).json() == {"status": "UP"}


def test_the_tours_browser_reads_the_page(producers: ScriptedProducers) -> None:
    """What the tour says that a user sees is read from the page itself."""
    producers.answer = producers.report(message=CAUTION, age=3.0)
    discovery = Discovery.from_url("static://producer=127.0.0.1:4001")
    http = httpx.AsyncClient(transport=AsyncResilientTransport(discovery, transport=lambda _: producers))
    with served(make_app(http, discovery)) as address:
        browser = Browser(address)
        seen = browser.look("94107")
        wrong = browser.look("x")
        together = browser.look_at_once(3, "94107")
        browser.close()
    assert seen.out_of_date
    assert not seen.fresh
    assert (seen.fields["place"], seen.fields["api-circuit"], seen.producer) == (
        "San Francisco",
        "closed",
        "127.0.0.1:4001",
    )
    assert f"San Francisco 14.3 °C, mist | {CAUTION} True at 12:00:07 UTC  (" in str(seen)
    assert (wrong.status, "3 to 10" in wrong.fields["problem"]) == (400, True)
    assert [one.out_of_date for one in together] == [True] * 3


def test_a_page_that_cannot_be_opened_is_seen_as_such() -> None:
    """The tour's browser tells a dead page from every answer."""
    browser = Browser("http://127.0.0.1:9")
    seen: Seen = browser.look("94107")
    browser.close()
    assert seen.status == 0
    assert "cannot be opened" in str(seen)
