"""A user of the gateway, as the tour sees one: asks, reads what comes, and looks at the clock."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

_TRIES = 60.0  # seconds for which a check-in is sent again and again


@dataclass(frozen=True, slots=True)
class Seen:
    """What a user saw.

    Attributes:
        status: the HTTP status; 0 when the gateway could not be reached.
        asked: when the user asked, on the monotonic clock.
        milliseconds: how long it took.
        document: the answer.
        served_by: the replica that answered; empty when the gateway did by itself.
        retry_after: seconds after which to come back, as the answer says; None when it does not.
    """

    status: int
    asked: float
    milliseconds: float
    document: Mapping[str, Any]
    served_by: str
    retry_after: int | None

    @property
    def error(self) -> str:
        """The sentence about what is wrong; empty when nothing is."""
        return str(self.document.get("error", self.document.get("detail", "")))

    def __str__(self) -> str:
        shown = self.error or ", ".join(
            f"{name} {value}" for name, value in self.document.items() if isinstance(value, str | int) and _short(name)
        )
        again = f"; come back in {self.retry_after} s" if self.retry_after else ""
        by = f", {self.served_by}" if self.served_by else ""
        return f"{self.status} {shown}{again}  ({self.milliseconds:.0f} ms{by})"


def _short(name: str) -> bool:
    return name not in {"served_by", "reference", "at", "seen_lately"}


class User:
    """Asks the gateway.

    Args:
        address: `http://host:port` of the gateway.

    Safe for threads.
    """

    def __init__(self, address: str) -> None:
        self._http = httpx.Client(base_url=address, trust_env=False, timeout=10.0)

    def ask(self, path: str, method: str = "GET", **request: Any) -> Seen:
        """Send one request."""
        asked = time.monotonic()
        try:
            answer = self._http.request(method, path, **request)
        except httpx.TransportError as error:
            return Seen(0, asked, _since(asked), {"error": f"the gateway cannot be reached: {error}"}, "", None)
        try:
            document = answer.json()
        except ValueError:
            document = {"error": answer.text}
        wait = answer.headers.get("Retry-After")
        served_by = answer.headers.get("X-Served-By", "")
        return Seen(answer.status_code, asked, _since(asked), document, served_by, None if wait is None else int(wait))

    def check_in(self, patient_id: int, *, key: str | None = None) -> Seen:
        """Check a patient in, once."""
        headers = {"Idempotency-Key": key} if key else {}
        path = "/reception/check_in_patient"
        return self.ask(path, "POST", params={"patientId": patient_id}, headers=headers)

    def insist(self, patient_id: int, *, enough: threading.Event | None = None) -> Seen:
        """Check a patient in, sent again until it is done; the key makes it happen once, however often it is sent."""
        key = uuid.uuid4().hex
        deadline = time.monotonic() + _TRIES
        enough = enough or threading.Event()
        while True:
            seen = self.check_in(patient_id, key=key)
            if seen.status in {200, 201} or time.monotonic() > deadline or enough.wait(0.1):
                return seen

    @contextmanager
    def insisting(self, patients: Iterable[int], *, users: int = 5) -> Iterator[list[Future[Seen]]]:
        """Users check these patients in while the block runs, and after it to the end; they give up when it raises."""
        enough = threading.Event()
        with ThreadPoolExecutor(users) as pool:
            many = [pool.submit(self.insist, patient, enough=enough) for patient in patients]
            try:
                yield many
            except BaseException:  # else Ctrl-C would wait for minutes while there is no gateway
                enough.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    @contextmanager
    def asking(self, path: str, *, pause: float = 0.03, users: int = 1) -> Iterator[list[Seen]]:
        """Users ask again and again while the block runs; the list grows with what they see."""
        seen: list[Seen] = []
        enough = threading.Event()

        def ask() -> None:
            while not enough.is_set():
                seen.append(self.ask(path))
                enough.wait(pause)

        threads = [threading.Thread(target=ask, daemon=True) for _ in range(users)]
        for thread in threads:
            thread.start()
        try:
            yield seen
        finally:
            enough.set()
            for thread in threads:
                thread.join(12.0)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def counts(seen: Iterable[Seen]) -> str:
    """How many answers each replica gave: "6 from patient-1, 6 from patient-2"."""
    found = Counter(one.served_by or "the gateway itself" for one in seen)
    return ", ".join(f"{count} from {replica}" for replica, count in sorted(found.items()))


def _since(moment: float) -> float:
    return 1000 * (time.monotonic() - moment)
