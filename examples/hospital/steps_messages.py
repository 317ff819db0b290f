"""The steps in which check-ins go from reception to ward and finance, and whoever carries them is killed."""

from __future__ import annotations

import time

from examples.hospital.messages.local_broker import LocalBroker
from examples.hospital.system import id_of
from examples.hospital.tour import AT_ONCE, HospitalTour
from examples.hospital.user import Seen

MANY = 60


def a_check_in_goes_round(tour: HospitalTour) -> None:
    """A patient is checked in: reception tells the ward, the ward tells finance, finance tells both."""
    before = tour.system.done().check_ins
    seen = tour.shows(tour.user.check_in(2))
    at = time.monotonic()
    complete = _complete(tour, before + 1)
    took = time.monotonic() - at
    tour.say(f"{tour.system.done()}.")
    tour.check(seen.status == 201 and complete, f"a ward entry and an invoice, and both sides know it, in {took:.2f} s")
    again = [tour.user.check_in(2, key="sent-twice") for _ in range(2)]
    _complete(tour, before + 2)
    tour.check(
        [one.status for one in again] == [201, 200] and tour.system.done().check_ins == before + 2,
        "a request that is sent twice, with its Idempotency-Key, checks in once",
    )


def one_of_each_group(tour: HospitalTour) -> None:
    """Twenty check-ins: of each service one replica takes each message."""
    before, taken = tour.system.done().check_ins, _taken(tour)
    for _ in range(20):
        tour.user.check_in(3)
    complete = _complete(tour, before + 20)
    new = {replica: count - taken[replica] for replica, count in _taken(tour).items()}
    tour.say(f"Taken: {', '.join(f'{count} by {replica}' for replica, count in new.items())}.")
    ward, finance = (sum(new[one] for one in new if one.startswith(name)) for name in ("ward", "finance"))
    tour.check(complete and (ward, finance) == (40, 20), "the ward takes two for each check-in, finance takes one")
    tour.check(all(new.values()), "both replicas of each have work")


def the_broker_is_killed(tour: HospitalTour) -> None:
    """The broker is killed (kill -9), and comes back."""
    broker = _broker(tour)
    if broker is None:
        return
    _complete(tour, 1)  # a message of the reception that crashed waits until its lease on the outbox has ended
    before = tour.system.done().check_ins
    broker.kill()
    seen = [tour.user.check_in(4) for _ in range(10)]
    slowest = max(one.milliseconds for one in seen)
    reception = id_of(tour.system.replicas["reception"][0].name)
    tour.wait_for(lambda: tour.system.messages()[reception]["pending"] >= 10)
    waiting = tour.system.messages()[reception]["pending"]
    tour.say(f"Ten check-ins meanwhile, the slowest in {slowest:.0f} ms; {waiting} messages wait in the outbox.")
    tour.check(all(one.status == 201 for one in seen), "patients are checked in all the same")
    tour.check(slowest < 2 * AT_ONCE and waiting == 10, "nobody waits for the broker, and no message is forgotten")
    tour.system.start_broker(broker)
    at = time.monotonic()
    complete = _complete(tour, before + 10)
    took = time.monotonic() - at
    tour.check(complete, f"{took:.1f} s after it is back, all ten have their ward entry and their invoice, once each")


def everything_is_killed(tour: HospitalTour) -> None:
    """Sixty check-ins, while the broker, one replica of finance and one of the ward, and the gateway are killed."""
    broker = _broker(tour)
    if broker is None:
        return
    system = tour.system
    before = system.done().check_ins
    with tour.user.insisting(1 + number % 5 for number in range(MANY)) as many:
        tour.wait_for(lambda: sum(one.done() for one in many) >= MANY // 6)
        broker.kill()
        killed = [system.replicas["finance"][0], system.replicas["ward"][1]]
        for replica in killed:
            replica.kill()
        system.gateway.kill()
        tour.say(f"Killed: the broker, {', '.join(id_of(replica.name) for replica in killed)} and the gateway.")
        system.restart_gateway()
        for replica in killed:
            system.replace_replica(replica)
        system.start_broker(broker)
        seen: list[Seen] = [one.result() for one in many]
    complete = _complete(tour, before + MANY, within=40.0)
    done = system.done()
    tour.say(f"{done}.")
    tour.check(all(one.status in {200, 201} for one in seen), f"each of {MANY} users gets the check-in in the end")
    tour.check(complete and done.check_ins == before + MANY, "nothing is lost, and nothing has happened twice")


def the_account(tour: HospitalTour) -> None:
    """The account: who answered, what was sent, what was lost."""
    system = tour.system
    complete = _complete(tour, 1, within=20.0)
    done = system.done()
    words = ("published", "taken", "redelivered", "duplicates", "failed", "dead_lettered", "pending")
    tour.say(f"{'':12}{''.join(f'{word:>14}' for word in words)}")
    counts = system.messages()
    for replica, found in counts.items():
        tour.say(f"{replica:12}{''.join(f'{found[word]:>14}' for word in words)}")
    tour.say("(since each of these processes began: those that were killed took their counts with them)")
    tour.say(f"Circuits: {', '.join(f'{name} {state}' for name, state in system.circuits().items())}.")
    lost = 4 * done.check_ins - (done.entries + done.invoices + done.completed + done.admitted)
    tour.say(f"{done}. Lost: {lost}.")
    tour.check(complete and lost == 0, "for every check-in of this tour there is one ward entry and one invoice")
    dead = sum(found["dead_lettered"] + found["pending"] for found in counts.values())
    tour.check(dead == 0, "no message was given up, and none waits")


def _broker(tour: HospitalTour) -> LocalBroker | None:
    if tour.system.broker is None:
        tour.skip("a broker that somebody else runs is not ours to kill")
    return tour.system.broker


def _complete(tour: HospitalTour, check_ins: int, *, within: float = 25.0) -> bool:
    """Wait until so many check-ins are there, and everything has happened for each."""

    def complete() -> bool:
        done = tour.system.done()
        return done.check_ins >= check_ins and done.complete

    return tour.wait_for(complete, within=within)


def _taken(tour: HospitalTour) -> dict[str, int]:
    return {replica: found["taken"] for replica, found in tour.system.messages().items()}
