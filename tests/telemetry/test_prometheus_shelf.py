"""The files that processes share: counted once, kept, or dropped, whoever dies when."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric

from resilient import ConfigError
from resilient.telemetry import HttpRequestMetrics, register
from resilient.telemetry.prometheus_processes import VARIABLE, ProcessesCollector
from resilient.telemetry.prometheus_shelf import Document, Shelf


class Stub:
    """A collector with one counter and three gauges, told what to say."""

    def __init__(self) -> None:
        self.count: float | None = 0.0

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        gauges = [Metric(name, "A gauge.", "gauge") for name in ("added", "highest", "ratio")]
        for gauge in gauges:
            gauge.add_sample(gauge.name, {}, 1.0)
        if self.count is not None:
            counter = Metric("calls", "Calls.", "counter")
            counter.add_sample("calls_total", {"name": "db"}, self.count)
            gauges.append(counter)
        return gauges


class Process:
    """What one process has; several of them fit into one, as their locks are of their open files."""

    def __init__(self, folder: Path) -> None:
        self.stub = Stub()
        together = {"added": sum, "highest": max, "ratio": None}
        self.collector = ProcessesCollector(self.stub, folder, "group", together, restarts=False)

    def page(self) -> dict[str, float]:
        """What it says of all."""
        return {sample.name: sample.value for metric in self.collector.collect() for sample in metric.samples}


def test_gauges_are_added_up_by_their_rule_and_ratios_of_several_are_absent(tmp_path: Path) -> None:
    """What can not be added up is shown while there is one."""
    first = Process(tmp_path)
    assert first.page() == {"added": 1, "highest": 1, "ratio": 1, "calls_total": 0}
    second = Process(tmp_path)
    second.page()
    assert first.page() == {"added": 2, "highest": 1, "calls_total": 0}


def test_a_counter_that_begins_again_or_ends_takes_nothing_back(tmp_path: Path) -> None:
    """A key that is dropped and comes back is another one."""
    process = Process(tmp_path)
    for says, total in ((5.0, 5.0), (2.0, 7.0), (None, 7.0), (4.0, 11.0), (4.0, 11.0)):
        process.stub.count = says
        assert process.page()["calls_total"] == total


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("count"), st.integers(0, 3), st.integers(1, 9)),
            st.tuples(st.sampled_from(["scrape", "die", "fork"]), st.integers(0, 3), st.just(0)),
        ),
        max_size=25,
    )
)
def test_every_call_is_counted_once(steps: list[tuple[str, int, int]]) -> None:
    """Whoever counts, scrapes, dies after its last word, or is replaced, in any order."""
    with TemporaryDirectory() as name:
        processes = [Process(Path(name)) for _ in range(4)]
        total = 0.0
        for step, number, times in steps:
            process = processes[number]
            if step == "count":
                assert process.stub.count is not None
                process.stub.count += times
                total += times
                process.collector.write()
            elif step == "scrape":
                assert process.page()["calls_total"] == total
            elif step == "die":
                processes[number] = Process(Path(name))
            else:  # a child with the parent's numbers in memory
                child = Process(Path(name))
                child.stub.count = process.stub.count
                child.collector.before_fork()
                child.collector.after_fork_in_child()
                processes[number] = child
            del process  # who is nobody's any more has died
        assert processes[0].page()["calls_total"] == total


def test_who_ends_between_two_steps_of_taking_the_dead_away_counts_nobody_twice(tmp_path: Path) -> None:
    """Files that were counted already and are still there are only taken away."""
    document: Document = [(("calls", "Calls.", "counter"), [("calls_total", {}, 5.0)])]
    dead = Shelf(tmp_path, "g")
    dead.write(document)
    files = {path.name: path.read_bytes() for path in tmp_path.glob("g.*-*")}
    del dead
    gc.collect()
    reader = Shelf(tmp_path, "g")
    assert reader.read()[0][0][1][0][2] == 5.0
    for name, content in files.items():  # as if the reader had ended before it took them away
        (tmp_path / name).write_bytes(content)
    again = json.dumps(reader.read()[0])
    assert json.loads(again)[0][1][0][2] == 5.0
    assert {path.name for path in tmp_path.glob("g.*-*")}.isdisjoint(files)


def test_a_process_that_has_not_written_yet_is_not_taken_for_dead(tmp_path: Path) -> None:
    """Its lock is there before its first word."""
    silent, reader = Shelf(tmp_path, "g"), Shelf(tmp_path, "g")
    assert reader.read() == [[]]
    silent.write([(("added", "A gauge.", "gauge"), [("added", {}, 1.0)])])
    assert len(reader.read()) == 2


def test_a_group_whose_lock_is_held_is_an_error_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stands still in the middle holds nobody up for ever."""
    import fcntl

    shelf = Shelf(tmp_path, "g")
    monkeypatch.setattr("resilient.telemetry.prometheus_shelf._PATIENCE", 0.05)
    with (tmp_path / "g.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match=r"another process has held g\.lock"):
            shelf.read()


def test_the_folder_is_named_when_it_can_not_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, not at the first scrape."""
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=rf"\${VARIABLE}: .*file can not be used"):
        register(CollectorRegistry())
    with pytest.raises(ConfigError, match="can not be used"):
        HttpRequestMetrics(lambda *_: None, registry=CollectorRegistry())  # type: ignore[arg-type]


def test_without_the_variable_no_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process per address needs none."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    register(CollectorRegistry())
    assert list(tmp_path.iterdir()) == []
