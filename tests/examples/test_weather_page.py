"""The weather page in a real browser, in front of a real producer and the local OpenWeatherMap."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import httpx
import pytest
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from examples.weather import consumer, producer
from examples.weather.local_openweathermap import DEMO_KEY
from examples.weather.openweathermap import OpenWeatherMap
from resilient.discovery import Discovery
from resilient.transport import AsyncResilientTransport
from tests.examples.weather_servers import LocalApi, local_openweathermap, served
from tests.peers import require

_QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_PHONE: ViewportSize = {"width": 360, "height": 740}


@dataclass
class Site:
    """Where the page is, and what stands behind it."""

    url: str
    api: LocalApi


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    require(chromium, "chromium is not installed (Debian: apt-get install chromium)")
    with sync_playwright() as started:
        running = started.chromium.launch(executable_path=chromium, args=list(_QUIET))
        yield running
        running.close()


@pytest.fixture
def site() -> Iterator[Site]:
    with (
        local_openweathermap() as api,
        closing(OpenWeatherMap(DEMO_KEY, base_url=api.url)) as client,
        served(producer.make_app(producer.guarded(client), me="127.0.0.1:4001")) as address,
        Discovery.from_url(f"static://producer={address.removeprefix('http://')}") as discovery,
    ):
        http = httpx.AsyncClient(transport=AsyncResilientTransport(discovery, trust_env=False))
        with served(consumer.make_app(http, discovery)) as url:
            yield Site(url, api)


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """A tab that fails the test when the page asks anybody else, or when the browser complains."""
    with browser.new_context(viewport=_PHONE) as context:
        tab = context.new_page()
        strangers: list[str] = []
        complaints: list[str] = []
        tab.on("request", lambda request: None if request.url.startswith(site.url) else strangers.append(request.url))
        tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(site.url)
        yield tab
    assert [url for url in strangers if not url.startswith("data:")] == []
    assert [text for text in complaints if "status of 4" not in text] == []


def search(page: Page, zip_code: str, country: str = "") -> None:
    page.get_by_label("Zip code").fill(zip_code)
    page.get_by_label("Country").fill(country)
    with page.expect_navigation():
        page.get_by_role("button", name="Show weather").click()


def overflow(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def test_search_and_see_the_weather_then_the_caution(page: Page, site: Site) -> None:
    """A user searches with the keyboard, sees the weather; OpenWeatherMap fails, and the user sees the caution."""
    assert page.evaluate("document.activeElement.id") == "zip"
    page.keyboard.type("94107")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.get_by_role("heading", name="San Francisco").is_visible()
    fresh = page.locator("[data-field=temperature]").inner_text()
    assert page.title().startswith("San Francisco: ")
    assert page.get_by_text("CAUTION").count() == 0

    site.api.mood("500")
    page.reload()
    alert = page.get_by_role("alert")
    assert alert.get_by_text("CAUTION - Response out of date!", exact=True).is_visible()
    assert "UTC" in alert.locator("time").inner_text()
    assert page.locator("[data-field=temperature]").inner_text() == fresh
    assert page.locator("[data-field=producer]").inner_text() == "127.0.0.1:4001"


def test_it_fits_on_a_phone_whatever_it_shows(page: Page, site: Site) -> None:
    """Nothing has to be scrolled sideways: search, weather, caution, nothing known, unknown place, bad input."""
    shown = [("", overflow(page))]
    for zip_code, country, mood in (
        ("94107", "", "ok"),
        ("94107", "", "500"),
        ("20095", "de", "500"),
        ("99999", "", "ok"),
        ("W" * 24, "USA", "ok"),
    ):
        site.api.mood(mood)
        search(page, zip_code, country)
        shown.append((f"{zip_code} {mood}", overflow(page)))
    assert [what for what, pixels in shown if pixels > 0] == []


def test_bad_input_is_marked_and_gets_the_focus(page: Page) -> None:
    """The wrong field says what it takes, to screen readers too, and is where the user types next."""
    search(page, "<b>")
    field = page.get_by_label("Zip code")
    assert field.get_attribute("aria-invalid") == "true"
    assert page.locator("#zip-problem").is_visible()
    assert field.get_attribute("aria-describedby") == "zip-problem"
    assert page.evaluate("document.activeElement.id") == "zip"
    assert field.input_value() == "<b>"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(browser: Browser, site: Site, scheme: Literal["light", "dark"]) -> None:
    """Every text has a contrast of at least 4.5 to 1 with what is behind it (WCAG 2.2, 1.4.3)."""
    with browser.new_context(color_scheme=scheme) as context:
        tab = context.new_page()
        tab.goto(f"{site.url}/weather?zip=94107")
        site.api.mood("500")
        tab.reload()
        assert tab.get_by_role("alert").is_visible()
        assert tab.evaluate(_FAINT_TEXTS) == []


_FAINT_TEXTS = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const style = getComputedStyle(e), colour = parse(style.backgroundColor);
      if (style.backgroundImage !== "none") return parse(style.backgroundImage).slice(0, 3);
      if (colour.length === 3 || colour[3] > 0) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
    if (!text) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(text + " " + ((a + 0.05) / (b + 0.05)).toFixed(2));
  }
  return faint;
}"""
