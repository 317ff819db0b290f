"""What a container's health is: Docker has one word for two questions, and kills who is not healthy.

    python healthcheck.py http://127.0.0.1:8080/actuator/health/liveness http://127.0.0.1:8080/actuator/health/readiness

Until the process was ready once, the second address is asked: a rolling update waits for that before it stops an old
replica. From then on the first is: a database that is down is no reason to kill everybody who waits for it. With one
address, that one.

Status 0: healthy, 1: not. Standard library only, and of that little: it starts anew every few seconds.
"""

from __future__ import annotations

import http.client
import os
import sys
from urllib.parse import urlsplit

_TIMEOUT = 4.0  # seconds; Docker gives it five


def main(liveness: str, readiness: str | None = None, *, marker: str = "/tmp/was-ready") -> int:  # noqa: S108  # the container's own
    """Ask.

    Args:
        liveness: an address that answers 200 while the process lives.
        readiness: one that answers 200 once it can take requests.
        marker: a file that is there once the process was ready, and gone when the container is.
    """
    started = readiness is None or os.path.exists(marker)  # noqa: PTH110  # pathlib takes longer than all the rest
    url = liveness if started or readiness is None else readiness
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.netloc, timeout=_TIMEOUT)
    try:
        connection.request("GET", place.path)
        answer = connection.getresponse()
        text = answer.read(4096).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer from {url}: {error}")
        return 1
    finally:
        connection.close()
    print(f"{answer.status} from {url}: {text}")
    if answer.status != 200:
        return 1
    if not started:
        with open(marker, "w", encoding="ascii"):  # noqa: PTH123  # likewise
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
