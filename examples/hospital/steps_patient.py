"""The steps in which services are away, slow or failing, and what a user of the gateway sees."""

from __future__ import annotations

import time
from collections import Counter
from statistics import quantiles

from examples.hospital.gateway import SORRY
from examples.hospital.system import id_of
from examples.hospital.tour import AT_ONCE, HospitalTour, names
from examples.hospital.user import Seen, counts

PATIENT = "/patient/1"
CHECK_INS = "/reception/check_ins?limit=1"
_LONGEST = 3500.0  # milliseconds; the route's limit is 2 s, the rest is for a busy machine


def replicas_share_the_load(tour: HospitalTour) -> None:
    """Each service is found by its name, and its replicas share the load."""
    for path in (PATIENT, "/ward/entries?limit=1", "/finance/invoices?limit=1"):
        seen: list[Seen] = []

        def even(path: str = path, seen: list[Seen] = seen) -> bool:
            seen[:] = [tour.user.ask(path) for _ in range(10)]
            shares = Counter(one.served_by for one in seen)
            return len(shares) == 2 and max(shares.values()) - min(shares.values()) <= 2

        tour.wait_for(even)  # on a busy machine a first answer is slow, and costs its replica some
        tour.shows(seen[0])
        tour.shows(seen[1])
        fewest = min(Counter(one.served_by for one in seen).values())
        tour.check(len({one.served_by for one in seen}) == 2 and fewest >= 2, f"ten answers: {counts(seen)}")


def bad_input_is_explained(tour: HospitalTour) -> None:
    """A user makes mistakes: that is nobody's failure."""
    for path in ("/patient/x", "/patient/99999", "/reception/check_in_patient?patientId=99999", "/nowhere"):
        tour.ask(path)
    born = {"born": "1990-02-30", "name": "Ada"}
    seen = [tour.shows(tour.user.ask("/patient", "POST", json=born)) for _ in range(6)]
    tour.check({one.status for one in seen} == {422}, "what can be no patient is refused with a sentence per field")
    tour.check(set(tour.system.circuits().values()) == {"closed"}, "no circuit opens for that")


def a_replica_is_killed(tour: HospitalTour) -> None:
    """One of two patient replicas is killed (kill -9)."""
    gone = tour.system.replicas["patient"][0]
    with tour.user.asking(PATIENT, users=3) as seen:
        tour.wait_for(lambda: len(seen) >= 10)
        gone.kill()
        at = time.monotonic()
        tour.wait_for(lambda: gone.address.removeprefix("http://") not in tour.system.registered("patient"))
        dropped = time.monotonic() - at
        new = tour.system.replace_replica(gone)
        tour.wait_for(lambda: any(one.served_by == id_of(new.name) for one in seen), within=20.0)
    after = [one for one in seen if one.asked > at]
    tour.say(f"{id_of(gone.name)} crashes. Users see {len(after)} more answers: {counts(after)}.")
    for one in [one for one in seen if one.status != 200][:3]:
        tour.shows(one)
    tour.check(all(one.status == 200 for one in seen), "no user sees an error")
    tour.check(True, f"the registry drops it after {dropped:.1f} s")
    tour.check(any(one.served_by == id_of(new.name) for one in seen), f"{id_of(new.name)} is started, found and asked")


def a_replica_hangs(tour: HospitalTour) -> None:
    """One of two patient replicas hangs: it takes every call and answers none."""
    hangs = tour.system.replicas["patient"][0]
    with tour.hanging([hangs]):
        seen = [tour.user.ask(PATIENT) for _ in range(15)]
    slow = [one for one in seen if one.milliseconds > AT_ONCE]
    tour.say(f"15 answers: {counts(seen)}. {len(slow)} of them took more than {AT_ONCE:.0f} ms: asked twice.")
    tour.check(all(one.status == 200 for one in seen), "no user sees an error: after 0.8 s the other one is asked")
    tour.check(len(slow) <= 7, f"{id_of(hangs.name)} is soon left alone")
    back = tour.all_well(PATIENT, by=tour.system.replicas["patient"])
    tour.check(back, "when it goes on, it is asked again")


def patient_is_slow(tour: HospitalTour) -> None:
    """The patient service is slow: every answer takes five seconds."""
    tour.system.chaos("patient", latency=5.0)
    first = tour.ask(PATIENT)
    tour.check(_sorry(first, {504}) and first.milliseconds < _LONGEST, "the user waits 2 s at most, and reads why")
    _opens(tour)
    tour.system.chaos("patient")
    _recovers(tour)


def patient_fails(tour: HospitalTour) -> None:
    """The patient service fails: every answer is 500."""
    tour.system.chaos("patient", fail=True)
    tour.check(_sorry(tour.ask(PATIENT), {502, 503}), "the user reads the same sentence, and never the 500")
    _opens(tour)
    tour.system.chaos("patient")
    _recovers(tour)


def patient_hangs(tour: HospitalTour) -> None:
    """The patient service hangs, all of it; what others see of that."""
    tour.check(tour.user.check_in(1).status == 201, "patient 1 is checked in; then every replica of patient hangs")
    with tour.user.asking(PATIENT, users=8, pause=0.1) as every:
        before = _ninety_nine(tour)
        with tour.hanging(tour.system.replicas["patient"]):
            begun = time.monotonic()
            tour.wait_for(lambda: any(one.status == 504 for one in list(every)), within=15.0)
            during = _ninety_nine(tour)
            known, unknown = tour.user.check_in(1), tour.user.check_in(5)
            tour.wait_for(lambda: any(one.status == 503 for one in list(every)), within=15.0)
            seen = [one for one in list(every) if one.asked > begun]
    tour.shows(seen[-1])
    tour.check(all(_sorry(one, {503, 504}) for one in seen), f"{len(seen)} users read the sentence, none anything else")
    tour.say(f"Reception meanwhile: 99 of 100 answers within {during:.0f} ms; before within {before:.0f} ms.")
    tour.check(during < AT_ONCE, "a route that hangs does not hold up another one")
    tour.shows(known)
    tour.check(known.status == 201, "reception checks in whom it has seen lately")
    tour.shows(unknown)
    tour.check(unknown.status == 503 and unknown.retry_after, "of others nothing is known: nobody is checked in")
    _recovers(tour)


def patient_is_gone(tour: HospitalTour) -> None:
    """Both patient replicas are gone: one crashes, one is stopped."""
    first, second = list(tour.system.replicas["patient"])
    first.kill()
    second.stop()
    tour.check(_sorry(tour.ask(PATIENT), {502, 503}), "the user reads the sentence at once")
    for gone in (first, second):
        tour.system.replace_replica(gone)
    tour.say(f"{names(tour.system.replicas['patient'])} are started, at new addresses.")
    _recovers(tour)


def reception_is_gone(tour: HospitalTour) -> None:
    """Reception, which has one replica, hangs, and then crashes."""
    (reception,) = tour.system.replicas["reception"]
    with tour.hanging([reception]):
        hanging = tour.ask(CHECK_INS)
    tour.check(_sorry(hanging, {504}, "reception"), "while it hangs: a sentence after 2 s")
    reception.kill()
    gone = tour.shows(tour.user.check_in(1))
    tour.check(_sorry(gone, {502, 503}, "reception"), "when it is gone: the same, at once")
    tour.system.replace_replica(reception)
    tour.check(tour.all_well(CHECK_INS, by=tour.system.replicas["reception"]), "a new one is found")
    tour.check(tour.wait_for(lambda: tour.user.check_in(1).status == 201, within=15.0), "and checks patients in")


def the_registry_is_killed(tour: HospitalTour) -> None:
    """The registry is killed, and comes back with an empty memory."""
    system = tour.system
    system.registry.kill()
    until = time.monotonic() + 1.6  # three times that everybody asks it in vain
    with tour.user.asking(PATIENT, pause=0.05) as patients, tour.user.asking(CHECK_INS, pause=0.05) as others:
        tour.wait_for(lambda: time.monotonic() > until)
        system.restart_registry()
        at = time.monotonic()
        back = tour.wait_for(
            lambda: all(len(system.registered(name)) == len(several) for name, several in system.replicas.items())
        )
        took = time.monotonic() - at
        tour.wait_for(lambda: time.monotonic() > at + took + 1.0)  # everybody has asked it again
    seen = [*patients, *others]
    for one in [one for one in seen if one.status != 200][:3]:
        tour.shows(one)
    tour.say(f"Meanwhile users see {len(seen)} answers: {counts(seen)}.")
    tour.check(all(one.status == 200 for one in seen), "calls go on to the last known replicas, also while it fills")
    tour.check(back, f"back again, it lists all of them after {took:.1f} s, without any help")


def _sorry(seen: Seen, statuses: set[int], service: str = "patient") -> bool:
    """Whether a user read the gateway's own sentence."""
    told = seen.error == SORRY[service] and seen.retry_after is not None and not seen.served_by
    return told and seen.status in statuses


def _opens(tour: HospitalTour) -> None:
    with tour.user.asking(PATIENT, users=6, pause=0.05):
        immediate = tour.at_once(PATIENT)
    if immediate:
        tour.shows(immediate)
    state = tour.system.circuits()["patient"]
    tour.check(immediate and _sorry(immediate, {503}), f"the circuit opens (now {state}), and the answer is immediate")


def _recovers(tour: HospitalTour) -> None:
    at = time.monotonic()
    well = tour.wait_for(lambda: tour.user.ask(PATIENT).status == 200, within=15.0)
    took = time.monotonic() - at

    def settled() -> bool:
        """A circuit remembers for ten seconds what failed: with twenty calls it would judge by that once more."""
        return all(tour.user.ask(PATIENT).status == 200 for _ in range(20))

    well = well and tour.wait_for(settled, within=20.0) and tour.system.circuits()["patient"] == "closed"
    tour.check(well, f"well again: answers after {took:.1f} s, and the circuit closes")


def _ninety_nine(tour: HospitalTour) -> float:
    """Milliseconds within which 99 of 100 questions to reception are answered; of three times the least."""

    def once() -> float:
        return quantiles([tour.user.ask(CHECK_INS).milliseconds for _ in range(100)], n=100)[98]

    return min(once() for _ in range(3))
