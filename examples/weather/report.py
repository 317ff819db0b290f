"""What: the weather as producers and consumers speak about it, a small JSON object.

OpenWeatherMap's answer has forty fields; ours has what the page shows, and says how old it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import Any, Self

CAUTION = "CAUTION - Response out of date!"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeatherReport:
    """The weather at a place: fresh, or old and marked so, or empty when nothing is known.

    Attributes:
        zip_code: the place, as asked for.
        country: its two letters.
        place: its name.
        temperature: in °C.
        description: in words, such as "light rain".
        humidity: in percent.
        wind: in metres per second.
        observed_at: when this was true; None when nothing is known.
        message: empty, or `CAUTION`.
        age: for how many seconds nobody got a newer answer; 0 when this is one.
        producer: the address of the producer that answered; empty when none did.
        circuit: the state of that producer's circuit to OpenWeatherMap.
    """

    zip_code: str
    country: str
    place: str = ""
    temperature: float | None = None
    description: str = ""
    humidity: float | None = None
    wind: float | None = None
    observed_at: datetime | None = None
    message: str = ""
    age: float = 0.0
    producer: str = ""
    circuit: str = ""

    @property
    def known(self) -> bool:
        """Whether it says anything."""
        return self.observed_at is not None

    def to_json(self) -> dict[str, Any]:
        """As the JSON object that crosses the wire."""
        observed = self.observed_at.isoformat() if self.observed_at else None
        return {**asdict(self), "observed_at": observed, "age": round(self.age, 1)}

    @classmethod
    def from_json(cls, document: object) -> Self:
        """Read such an object; fields that we do not know (a newer producer's) are left out.

        Raises:
            ValueError: when it is no weather report.
        """
        try:
            given = _fields_of(document, {field.name for field in fields(cls)})
            return cls(**given)
        except (TypeError, ValueError) as error:
            raise ValueError(f"this is no weather report: {error}") from error


def empty(zip_code: str, country: str) -> WeatherReport:
    """What can always be said: nothing. Takes the same arguments as the functions it stands for."""
    return WeatherReport(zip_code=zip_code, country=country)


def out_of_date(report: WeatherReport, age: float) -> WeatherReport:
    """`report` marked as old by `age` seconds more."""
    return replace(report, message=CAUTION, age=report.age + age)


def _fields_of(document: object, known: set[str]) -> dict[str, Any]:
    if not isinstance(document, Mapping):
        raise TypeError(f"an object is needed, not {type(document).__name__}")
    given = {name: value for name, value in document.items() if name in known}
    for name in ("temperature", "humidity", "wind", "age"):
        if not isinstance(given.get(name), int | float | None):
            raise TypeError(f"{name} must be a number, not {given[name]!r}")
    if given.get("observed_at") is not None:
        given["observed_at"] = datetime.fromisoformat(given["observed_at"])
    return given
