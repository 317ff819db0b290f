"""The steps of the tour, one function each: what is broken, what a user sees then, and what was promised."""

from __future__ import annotations

import time
from collections.abc import Callable

from examples.support.system import LEASE
from examples.weather.browser import Seen
from examples.weather.producer import SERVICE
from examples.weather.tour import Tour, addresses, circuits, counts, fresh_from, milliseconds

PLACE = "94107"  # San Francisco
ANOTHER = ("20095", "de")  # Hamburg
NOWHERE = "99999"
_AT_ONCE = 250.0  # milliseconds that still count as immediate on a busy machine; it is 5 on an idle one


def two_producers_share_the_load(tour: Tour) -> None:
    """Two producers share the load."""
    tour.look_until(lambda seen: seen.fresh, PLACE, by=addresses(tour.system))
    seen = _shared(tour)
    tour.say(f"A user asks {len(seen)} times for the weather in {PLACE}, and sees such answers:")
    tour.shows(seen[0])
    tour.shows(seen[1])
    tour.say(f"Answers: {counts(seen)}.")
    tour.check(all(one.fresh for one in seen), "every answer is fresh")
    tour.check(_are_even(tour, seen), "both producers gave as many, found by the name 'producer' alone")


def _shared(tour: Tour) -> list[Seen]:
    """A dozen answers; on a busy machine a producer's first one is slow, and it gets fewer until it is as quick."""
    if tour.real_api:
        return [tour.browser.look(PLACE) for _ in range(6)]
    seen: list[Seen] = []

    def even() -> bool:
        seen[:] = [tour.browser.look(PLACE) for _ in range(12)]
        return _are_even(tour, seen)

    tour.wait_for(even, within=30.0)
    return seen


def _are_even(tour: Tour, seen: list[Seen]) -> bool:
    shares = [sum(one.producer == producer for one in seen) for producer in addresses(tour.system)]
    return max(shares) - min(shares) <= 2


def three_ways_to_fail(tour: Tour) -> None:
    """Three ways to deal with a failure: fail fast, fail silent, fall back."""
    if not tour.skip_without_moods():
        _fail_in_three_ways(tour)
    tour.say(f"A user mistypes the code: {NOWHERE}. That is nobody's failure.")
    unknown = tour.shows(tour.browser.look(NOWHERE))
    tour.check(unknown.status == 404 and "error" in unknown.fields, "an unknown place is told as such (HTTP 404)")
    circuits = {tour.system.state_of(producer)["circuit"] for producer in tour.system.producers}
    tour.check(circuits == {"closed"}, "it trips no circuit and gets no fallback")


def _fail_in_three_ways(tour: Tour) -> None:
    tour.say("OpenWeatherMap hangs. The same question on three pages:")
    tour.system.mood("hang")
    tries = 8  # on a busy machine the first may be late
    strict = tour.shows(tour.browser.look(PLACE, page="/weather/strict"))
    while strict.milliseconds > 100 and (tries := tries - 1):
        strict = tour.shows(tour.browser.look(PLACE, page="/weather/strict"))
    tour.check(
        strict.status == 503 and strict.milliseconds <= 100, "/weather/strict fails fast: an error within 100 ms"
    )
    silent = tour.shows(tour.browser.look(PLACE, page="/weather/silent"))
    tour.check(silent.empty, "/weather/silent fails silent: no error, no weather")
    fallback = tour.shows(tour.browser.look(PLACE))
    tour.check(fallback.out_of_date, "/weather falls back on the last known weather, and says that it is old")
    tour.system.mood("ok")
    seen = tour.look_until(lambda one: one.fresh, PLACE, by=addresses(tour.system))
    tour.check(fresh_from(seen) >= addresses(tour.system), "OpenWeatherMap answers again, and so does everybody")


def a_producer_is_killed(tour: Tour) -> None:
    """One producer is killed (kill -9)."""
    killed, left = tour.system.producers
    gone, stays = (producer.address.removeprefix("http://") for producer in (killed, left))
    with tour.browser.users(tour.users, PLACE, pause=tour.pause) as seen:
        tour.wait_for(lambda: len(seen) >= 6)
        killed.kill()
        at = time.monotonic()
        tour.wait_for(lambda: gone not in tour.system.registered(SERVICE))
        dropped = time.monotonic() - at
    after = [one for one in seen if one.asked > at]
    tour.say(f"While users go on searching, {gone} crashes. They see {len(after)} more answers: {counts(after)}.")
    tour.shows(after[0])
    bad = [one for one in seen if not one.fresh]
    for one in bad[:3]:
        tour.shows(one)
    tour.check(not bad, "no user sees an error, or old weather")
    tour.check({one.producer for one in after} == {stays}, "all calls go to the other producer")
    listed = gone in tour.system.registered(SERVICE)
    tour.check(not listed, f"the registry drops it when its lease of {LEASE} s ends (after {dropped:.1f} s)")
    new = tour.system.replace_producer(killed).address.removeprefix("http://")
    seen = tour.look_until(lambda one: one.fresh, PLACE, by={new, stays})
    tour.check(fresh_from(seen) >= {new, stays}, f"a new producer, {new}, is started, found and asked")


def the_api_hangs(tour: Tour) -> None:
    """OpenWeatherMap hangs: it takes every call and answers none."""
    if tour.skip_without_moods():
        return
    tour.system.mood("hang")
    first = tour.shows(tour.browser.look(PLACE))
    in_time = first.milliseconds < 2000  # the limit is 1 s; the rest is for a busy machine
    tour.check(first.out_of_date and in_time, "an answer comes within the time limit of 1 s, marked as old")
    seen = tour.browser.look_at_once(14, PLACE)
    tour.say(f"14 users search at once. The slowest waits {max(one.milliseconds for one in seen):.0f} ms.")
    tour.check(all(one.out_of_date for one in seen), "each of them gets the caution, none an error")

    asked = 0

    def immediate() -> list[Seen]:
        nonlocal asked
        asked = tour.system.requests_to_openweathermap()
        run = [tour.browser.look(PLACE) for _ in range(6)]
        return run if all(one.milliseconds < _AT_ONCE and one.out_of_date for one in run) else []

    run = tour.wait_for(immediate, within=20.0)
    asked = tour.system.requests_to_openweathermap() - asked
    if run:
        tour.shows(run[0])
        tour.say(f"The circuits are open. Six more searches take {milliseconds(run)}.")
    tour.check(run, "the circuits open, and answers are immediate")
    tour.check(run and asked == 0, "OpenWeatherMap is left alone meanwhile: none of these searches reached it")


def the_api_recovers(tour: Tour) -> None:
    """OpenWeatherMap recovers."""
    if tour.skip_without_moods():
        return
    producers = addresses(tour.system)
    tour.system.mood("ok")
    at = time.monotonic()
    with tour.browser.users(2, PLACE, pause=0.05) as seen:
        tour.wait_for(lambda: fresh_from(list(seen)), within=15.0)
        tour.say(f"After {time.monotonic() - at:.1f} s the first probe brings fresh weather:")
        tour.shows(next((one for one in list(seen) if one.fresh), seen[-1]))
        tour.wait_for(
            lambda: all(circuits(list(seen), producer)[-1:] == ["closed"] for producer in producers), within=15.0
        )
    paths = {producer: circuits(seen, producer) for producer in sorted(producers)}
    for producer, path in paths.items():
        tour.say(f"The circuit of {producer}: {' -> '.join(path)}.")
    no_error = all(one.fresh or one.out_of_date for one in seen)
    old = sum(one.out_of_date for one in seen)
    tour.check(no_error, f"nobody sees an error ({old} of {len(seen)} see old weather)")
    gradual = all(path[-2:] == ["half-open", "closed"] for path in paths.values())
    tour.check(gradual, "probes pass first, then the circuits close")
    tour.check(tour.shows(tour.browser.look(PLACE)).fresh, "fresh answers are back")


def the_api_answers_badly(tour: Tour) -> None:
    """OpenWeatherMap answers nonsense, hangs up, fails, and has enough of us."""
    if tour.skip_without_moods():
        return
    for mood, words in (
        ("garbage", "half a JSON document"),
        ("missing", "a document without the temperature"),
        ("refuse", "a closed connection"),
        ("500", "HTTP 500"),
        ("429", "HTTP 429, too many requests, with Retry-After"),
    ):
        tour.system.mood(mood)
        seen = tour.shows(tour.browser.look(PLACE))
        tour.check(seen.out_of_date, f"{words}: the same caution")
    tour.system.mood("ok")
    again = tour.look_until(lambda one: one.fresh, PLACE, by=addresses(tour.system))
    tour.check(fresh_from(again) >= addresses(tour.system), "when it is well again, so is the page")


def a_newcomer_knows_what_the_others_learnt(tour: Tour) -> None:
    """The producers share what they know: a new one starts while OpenWeatherMap fails."""
    if tour.skip_without_moods():
        return
    tour.system.mood("500")
    old = tour.system.producers[0]
    old.stop()
    new = tour.system.replace_producer(old).address.removeprefix("http://")
    seen = tour.look_until(lambda one: one.producer == new, PLACE)
    tour.shows(seen[-1])
    tour.check(
        seen[-1].producer == new and seen[-1].out_of_date, "it never had an answer, and hands out what another had"
    )
    tour.system.mood("ok")
    again = tour.look_until(lambda one: one.fresh, PLACE, by=addresses(tour.system))
    tour.check(fresh_from(again) >= addresses(tour.system), "when OpenWeatherMap is well again, so is the page")


def the_registry_is_killed(tour: Tour) -> None:
    """The registry is killed, and comes back with an empty memory."""
    system = tour.system
    system.registry.kill()
    until = time.monotonic() + 1.6  # three times that everybody asks it in vain
    with tour.browser.users(1, PLACE, pause=max(tour.pause, 0.1)) as seen:
        tour.wait_for(lambda: time.monotonic() > until)
        system.restart_registry()
        at = time.monotonic()
        back = tour.wait_for(lambda: system.registered(SERVICE) == addresses(system))
        took = time.monotonic() - at
    tour.say(f"Meanwhile a user sees {len(seen)} answers: {counts(seen)}.")
    tour.check(
        all(one.fresh for one in seen) and {one.producer for one in seen} == addresses(system),
        "lookups go on with the last known producers, also while the new registry knows nobody",
    )
    tour.check(back, f"back again, it lists both producers after {took:.1f} s, without any help")


def both_producers_are_gone(tour: Tour) -> None:
    """Both producers are gone: one crashes, one is stopped."""
    first, second = tour.system.producers
    first.kill()
    second.stop()
    listed = second.address.removeprefix("http://") in tour.system.registered(SERVICE)
    tour.check(not listed, "the one that was stopped left the registry itself")
    old = tour.shows(tour.browser.look(PLACE))
    tour.check(old.out_of_date and not old.producer, "the page falls back on what it has seen itself")
    nothing = tour.shows(tour.browser.look(*ANOTHER))
    tour.check(nothing.empty, "of a place that nobody has asked for it says kindly that nothing is known")
    for gone in (first, second):
        tour.system.replace_producer(gone)
    seen = tour.look_until(lambda one: one.fresh, PLACE, by=addresses(tour.system), within=20.0)
    tour.shows(seen[-1])
    tour.check(fresh_from(seen) >= addresses(tour.system), "two new producers, at new addresses, and all is well")


def steps(*, shared: bool) -> list[Callable[[Tour], None]]:
    """The steps in their order; one more when the producers share what they know."""
    return [step for step in _STEPS if shared or step is not a_newcomer_knows_what_the_others_learnt]


_STEPS = (
    two_producers_share_the_load,
    three_ways_to_fail,
    a_producer_is_killed,
    the_api_hangs,
    the_api_recovers,
    the_api_answers_badly,
    a_newcomer_knows_what_the_others_learnt,
    the_registry_is_killed,
    both_producers_are_gone,
)
