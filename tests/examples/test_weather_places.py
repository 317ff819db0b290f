"""What a user may type, and what producers and consumers tell each other."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from examples.weather.place import BadPlaceError, Place
from examples.weather.report import CAUTION, WeatherReport, empty, out_of_date

REPORT = WeatherReport(
    zip_code="94107",
    country="us",
    place="San Francisco",
    temperature=14.3,
    description="mist",
    humidity=81.0,
    wind=4.6,
    observed_at=datetime(2026, 3, 1, 12, 0, tzinfo=UTC),
)


@pytest.mark.parametrize(
    ("typed", "place"),
    [
        (("94107", ""), Place("94107", "us")),
        (("  94107 ", " US"), Place("94107", "us")),
        (("e14", "gb"), Place("E14", "gb")),
        (("100-0001", "JP"), Place("100-0001", "jp")),
        (("sw1a   1aa", "GB"), Place("SW1A 1AA", "gb")),
        (("1011", "nl"), Place("1011", "nl")),
    ],
)
def test_a_place_has_one_spelling(typed: tuple[str, str], place: Place) -> None:
    """Case and space do not matter, and without a country it is the United States."""
    assert Place.parse(*typed) == place


@pytest.mark.parametrize(
    ("zip_code", "country", "fields"),
    [
        ("", "", {"zip"}),
        ("   ", "us", {"zip"}),
        ("12", "us", {"zip"}),
        ("12345678901", "us", {"zip"}),
        ("<b>", "us", {"zip"}),
        ("94107,de", "us", {"zip"}),
        ("94107&appid=x", "", {"zip"}),
        ("-4107-", "us", {"zip"}),
        ("\uff19\uff14\uff11\uff10\uff17", "us", {"zip"}),
        ("94107", "usa", {"country"}),
        ("94107", "u", {"country"}),
        ("94107", "d3", {"country"}),
        ("94107", "ßß", {"country"}),
        ("?", "??", {"zip", "country"}),
    ],
)
def test_what_can_be_no_place_is_explained(zip_code: str, country: str, fields: set[str]) -> None:
    """Each wrong field gets a sentence of its own."""
    with pytest.raises(BadPlaceError) as caught:
        Place.parse(zip_code, country)
    assert set(caught.value.problems) == fields
    assert all(problem.endswith(".") for problem in caught.value.problems.values())


@pytest.mark.parametrize("report", [REPORT, out_of_date(REPORT, 3.04), empty("94107", "us")], ids=str)
def test_a_report_survives_the_wire(report: WeatherReport) -> None:
    """What is written as JSON is read as the same report; only its age is rounded."""
    received = WeatherReport.from_json(json.loads(json.dumps(report.to_json())))
    assert received.to_json() == report.to_json()
    assert received.observed_at == report.observed_at


def test_a_newer_producer_may_say_more() -> None:
    """Fields that this version does not know are left out."""
    assert WeatherReport.from_json({**REPORT.to_json(), "pollen": "high"}) == REPORT


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "x",
        {},
        {"zip_code": "94107"},
        {**REPORT.to_json(), "temperature": "<script>"},
        {**REPORT.to_json(), "observed_at": "soon"},
        {**REPORT.to_json(), "observed_at": 5},
    ],  # one list of wrongs
    ids=str,
)
def test_what_is_no_report_is_refused(document: object) -> None:
    """A producer's answer is checked before it is shown or remembered."""
    with pytest.raises(ValueError, match="no weather report"):
        WeatherReport.from_json(document)


def test_ages_add_up() -> None:
    """What was old at the producer is older at the consumer."""
    twice = out_of_date(out_of_date(REPORT, 10.0), 5.0)
    assert (twice.message, twice.age, twice.temperature) == (CAUTION, 15.0, 14.3)
