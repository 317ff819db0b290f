"""Where: what a user may type as a place, and what to tell who typed something else.

Whatever passes goes into the address of another service, so it is checked once, at the border, against what
OpenWeatherMap takes. The consumer does it for its users' sake, the producer because it cannot know who calls it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

DEFAULT_COUNTRY = "us"  # as OpenWeatherMap has it
_ZIP_CODE = re.compile(r"[A-Z0-9][A-Z0-9 -]{1,8}[A-Z0-9]")
_COUNTRY = re.compile(r"[a-z]{2}")


class BadPlaceError(ValueError):
    """What was typed can be no place; `problems` has a sentence for each field that is wrong."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__(" ".join(problems.values()))
        self.problems = dict(problems)


@dataclass(frozen=True, slots=True)
class Place:
    """A zip code and a country, in one spelling: the same place is the same key in every cache."""

    zip_code: str
    country: str = DEFAULT_COUNTRY

    @classmethod
    def parse(cls, zip_code: str, country: str = "") -> Self:
        """Read what a user typed.

        Args:
            zip_code: 3 to 10 letters, digits, spaces or hyphens.
            country: its two letters (ISO 3166), in any case; default "us".

        Raises:
            BadPlaceError: when one of them cannot be, with a sentence for each.
        """
        place = cls(" ".join(zip_code.split()).upper(), country.strip().lower() or DEFAULT_COUNTRY)
        problems = {}
        if not place.zip_code:
            problems["zip"] = "Please enter a zip code, such as 94107."
        elif not _ZIP_CODE.fullmatch(place.zip_code):
            problems["zip"] = "A zip code has 3 to 10 letters, digits, spaces or hyphens, such as 94107 or E14."
        if not _COUNTRY.fullmatch(place.country):
            problems["country"] = "A country code has two letters, such as US, DE or GB."
        if problems:
            raise BadPlaceError(problems)
        return place
