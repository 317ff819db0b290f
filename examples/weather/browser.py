"""A user with a browser, as the tour sees one: opens the page, reads what it shows, and looks at the clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser

import httpx

from examples.weather.report import CAUTION

_VOID = {"input", "meta", "link", "br", "path", "circle"}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a user saw.

    Attributes:
        status: the HTTP status; 0 when the page could not be opened.
        asked: when the user asked, on the monotonic clock.
        milliseconds: how long it took.
        fields: the texts on the page, by the names of their fields.
    """

    status: int
    asked: float
    milliseconds: float
    fields: Mapping[str, str]

    @property
    def fresh(self) -> bool:
        """Weather, and not old."""
        return self.status == 200 and "temperature" in self.fields and "message" not in self.fields

    @property
    def out_of_date(self) -> bool:
        """Weather, with the caution."""
        return self.status == 200 and "temperature" in self.fields and self.fields.get("message") == CAUTION

    @property
    def empty(self) -> bool:
        """No weather, and no error."""
        return self.status == 200 and "empty" in self.fields

    @property
    def producer(self) -> str:
        """Who answered; empty when the page answered by itself."""
        return self.fields.get("producer", "")

    def __str__(self) -> str:
        shown = self.fields
        if "temperature" in shown:
            text = f"{shown['place']} {shown['temperature']} °C, {shown['description'].lower()}"
            text += f" | {shown['message']} True at {shown['since'].split(', ')[-1]}" if "message" in shown else ""
        else:
            text = shown.get("empty") or shown.get("error") or shown.get("problem") or f"HTTP {self.status}"
        by = f", {self.producer}" if self.producer else ""
        return f"{text}  ({self.milliseconds:.0f} ms{by})"


class Browser:
    """Opens the consumer's page.

    Args:
        address: `http://host:port` of the consumer.

    Safe for threads.
    """

    def __init__(self, address: str) -> None:
        self._http = httpx.Client(base_url=address, trust_env=False, timeout=10.0, headers={"Accept": "text/html"})

    def look(self, zip_code: str, country: str = "", *, page: str = "/weather") -> Seen:
        """Search for a place."""
        asked = time.monotonic()
        try:
            answer = self._http.get(page, params={"zip": zip_code, "country": country})
        except httpx.TransportError as error:
            return Seen(0, asked, _since(asked), {"error": f"the page cannot be opened: {error}"})
        reader = _Reader()
        reader.feed(answer.text)
        return Seen(answer.status_code, asked, _since(asked), reader.fields)

    def look_at_once(self, users: int, zip_code: str) -> list[Seen]:
        """Several users search at the same moment."""
        with ThreadPoolExecutor(users) as pool:
            return list(pool.map(self.look, [zip_code] * users))

    @contextmanager
    def users(self, count: int, zip_code: str, *, pause: float) -> Iterator[list[Seen]]:
        """Several users search again and again while the block runs; the list grows with what they see."""
        seen: list[Seen] = []
        enough = threading.Event()

        def search() -> None:
            while not enough.is_set():
                seen.append(self.look(zip_code))
                enough.wait(pause)

        threads = [threading.Thread(target=search, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield seen
        finally:
            enough.set()
            for thread in threads:
                thread.join(5.0)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _since(moment: float) -> float:
    return 1000 * (time.monotonic() - moment)


class _Reader(HTMLParser):
    """Collects the text of every element that has a `data-field`."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self._open: list[str | None] = []  # the field of each open element

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self._open.append(dict(attrs).get("data-field"))

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID and self._open:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        text = " ".join(data.split())
        field = next((name for name in reversed(self._open) if name), None)
        if text and field:
            self.fields[field] = f"{self.fields.get(field, '')} {text}".strip()
