"""What the registry says about itself."""

from __future__ import annotations

import json

import pytest

from resilient.registry_server.server_status import server_status


@pytest.mark.parametrize(
    ("uptime", "said"),
    [
        (0, "00:00"),
        (59.9, "00:00"),
        (3_661, "01:01"),
        (86_399, "23:59"),
        (90_000, "1 day 01:00"),
        (200_000, "2 days 07:33"),
    ],
)
def test_the_uptime_is_written_as_netflix_does(uptime: float, said: str) -> None:
    """Hours and minutes, after the days when there are any."""
    status = json.loads(server_status(uptime, ("127.0.0.1", 1), 1_795_240_177_594, as_json=True))
    assert status["generalStats"]["server-uptime"] == said


def test_an_ipv6_address_stands_in_brackets() -> None:
    """In the links to the page; a link without them leads nowhere."""
    status = json.loads(server_status(0, ("::1", 8761), 1_795_240_177_594, as_json=True))
    assert status["instanceInfo"]["homePageUrl"] == "http://[::1]:8761/"
