"""The status page in a real browser: it lives, disturbs nobody who reads, and runs nothing that an instance says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from resilient.registry_server import RegistryServer
from resilient.registry_server.record import Port, Record
from tests.peers import require_command

EVIL = "\"'><script>window.evil = 1</script><img src=x onerror='window.evil = 1'>"


def record(app: str, name: str, **said: object) -> Record:
    """An instance that listens on port 80."""
    return Record(app=app, id=name, host=f"host-of-{name}", ip="i", port=Port(80, enabled=True), **said)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = require_command("chromium", package="chromium")
    with sync_playwright() as started:
        running = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


@pytest.fixture
def page(browser: Browser, registry: RegistryServer) -> Iterator[Page]:
    """The page; what it complains about or asks of others fails the test."""
    context = browser.new_context(viewport={"width": 1000, "height": 600})
    opened = context.new_page()
    trouble: list[str] = []
    opened.on("console", lambda message: trouble.append(message.text))
    opened.on("pageerror", lambda error: trouble.append(str(error)))
    opened.on("request", lambda asked: trouble.extend([asked.url] * (not asked.url.startswith(registry.http))))
    yield opened
    context.close()
    assert [line for line in trouble if "data:," not in line and "ERR_CONNECTION_REFUSED" not in line] == []


def test_it_shows_changes_without_disturbing_who_reads(page: Page, registry: RegistryServer) -> None:
    """Rows come, change and go; scroll position, focus and opened details stay where they were."""
    for number in range(10, 40):
        registry.store.register(record("SHOP", f"i-{number}", metadata={"version": "1"}, home_page="http://h/"))
    page.goto(registry.http)
    details = page.locator("tr", has_text="i-30").locator("details")
    details.locator("summary").click()
    link = page.locator("tr", has_text="i-30").get_by_role("link").first
    link.focus()
    scrolled = page.evaluate("scrollY")
    assert scrolled > 100
    registry.store.register(record("SHOP", "i-99"))
    registry.store.override("SHOP", "i-30", "OUT_OF_SERVICE")
    registry.store.cancel("SHOP", "i-35")
    expect(page.locator("tr", has_text="i-99")).to_be_attached()
    expect(page.locator("tr", has_text="i-30")).to_contain_text("out of service")
    expect(page.locator("tr", has_text="i-35")).to_have_count(0)
    assert page.evaluate("scrollY") == scrolled
    assert page.evaluate("document.activeElement.closest('tr').dataset.key") == "i-30"
    assert details.evaluate("node => node.open")
    registry.store.cancel("SHOP", "i-10")  # above what is read: the browser keeps the place, the focus is ours to keep
    registry.store.register(record("BOOK", "b-1"))
    expect(page.locator("section", has_text="BOOK")).to_be_attached()
    assert page.evaluate("document.activeElement.closest('tr').dataset.key") == "i-30"


def test_it_is_filtered(page: Page, registry: RegistryServer) -> None:
    """By every word, anywhere in an instance; the address says so, and it stays while the page refreshes."""
    registry.store.register(record("SHOP", "s-1", metadata={"zone": "east"}))
    registry.store.register(record("SHOP", "s-2", metadata={"zone": "west"}, status="DOWN"))
    registry.store.register(record("BOOK", "b-1", metadata={"zone": "west"}))
    page.goto(registry.http)
    page.get_by_label("Filter").fill("west down")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert page.url.endswith("/?q=west%20down")
    registry.store.register(record("BOOK", "b-2", metadata={"zone": "west"}, status="DOWN"))
    expect(page.locator("tbody tr")).to_have_count(2)
    page.get_by_label("Filter").fill(EVIL)
    expect(page.locator("main")).to_contain_text("Nobody has")
    page.reload()
    expect(page.get_by_label("Filter")).to_have_value(EVIL)
    page.get_by_label("Filter").fill("")
    expect(page.locator("tbody tr")).to_have_count(4)
    assert page.evaluate("window.evil") is None


def test_nothing_that_an_instance_says_runs(page: Page, registry: RegistryServer) -> None:
    """At first and when it comes by a refresh; addresses that are no web addresses stay text."""
    registry.store.register(record(EVIL, EVIL, metadata={EVIL: EVIL, "zone": EVIL}, home_page="javascript:evil=1"))
    page.goto(registry.http)
    registry.store.register(record("LATER", EVIL, metadata={EVIL: EVIL}, home_page=f"http://h/{EVIL}"))
    expect(page.locator("section")).to_have_count(2)
    assert page.evaluate("window.evil") is None
    assert page.locator("img").count() == 0
    assert page.locator("a").evaluate_all("links => links.map(link => link.protocol)") == ["http:"]


def test_it_says_when_the_registry_is_gone_and_when_it_is_back(page: Page, registry: RegistryServer) -> None:
    """What was known stays on the page, with the time since when."""
    registry.store.register(record("SHOP", "s-1"))
    page.goto(registry.http)
    registry.stop()
    expect(page.get_by_role("alert")).to_contain_text("does not answer", timeout=10_000)
    expect(page.locator("tbody tr")).to_have_count(1)
    registry.start()
    expect(page.get_by_role("alert")).to_be_hidden(timeout=10_000)
    expect(page.locator("main")).to_contain_text("Nobody is registered yet")


@pytest.mark.parametrize("width", [320, 390, 768, 1400])
def test_it_fits_every_screen(page: Page, registry: RegistryServer, width: int) -> None:
    """Nothing is wider than the screen, whatever is registered."""
    registry.store.register(record("A" * 120, "i" * 200, metadata={"k" * 80: "v" * 300, "zone": "z" * 60}))
    page.set_viewport_size({"width": width, "height": 700})
    page.goto(registry.http)
    page.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_words_can_be_read(browser: Browser, registry: RegistryServer, scheme: str) -> None:
    """Every status has a shape and a word beside its colour, and at least the contrast of WCAG AA (4.5)."""
    for status in ("UP", "DOWN", "STARTING", "OUT_OF_SERVICE", "UNKNOWN"):
        registry.store.register(record("SHOP", status, status=status, status_page="http://h/"))
    context = browser.new_context(color_scheme="dark" if scheme == "dark" else "light")
    page = context.new_page()
    page.goto(registry.http)
    assert sorted(page.locator(".status").all_inner_texts()) == [
        "? unknown", "‖ out of service", "● up", "◔ starting", "✕ down",
    ]  # fmt: skip
    poor = page.evaluate(
        """() => {
        const parse = (text) => text.match(/[\\d.]+/g).map(Number);
        const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const light = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255))
          .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
        const behind = (node) => {
          for (; node; node = node.parentElement) {
            const colour = parse(getComputedStyle(node).backgroundColor);
            if (colour.length === 3 || colour[3] > 0) return colour;
          }
        };
        const words = "h1, h2, h2 span, th, td, .dim, .status, a, summary, label";
        return [...document.querySelectorAll(words)].map((node) => {
          const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
          return [node.tagName, node.className, (a + 0.05) / (b + 0.05)];
        }).filter(([, , contrast]) => contrast < 4.5);
        }"""
    )
    context.close()
    assert poor == []
