"""`resilient run`: a program that knows nothing of registries is registered while it serves."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from resilient.registry_server import RegistryServer
from tests.cli.programs import SERVER
from tests.commands import Started, command, free_port
from tests.servers import RegistryProcess
from tests.waiting import wait_until

SERVES = [sys.executable, "-u", "-c", SERVER]


@pytest.fixture
def registry() -> Iterator[RegistryServer]:
    with RegistryServer(eviction_interval=0.2) as server:
        yield server


def running(registry: RegistryServer, port: int, *options: str, program: list[str] | None = None) -> Started:
    """The command around a program that opens `port`."""
    return Started(
        "run", "--service", "shop", "--port", str(port), "--host", "127.0.0.1", "--registry", registry.url, *options,
        "--", *(program or [*SERVES, str(port)]),
    )  # fmt: skip


def listed(registry: RegistryServer) -> list[str]:
    """The ids of what is registered."""
    return [lease.record.id for lease in registry.store.app("SHOP")]


def test_a_program_is_registered_while_it_serves(registry: RegistryServer) -> None:
    """Once its port is open; on SIGTERM it is taken out first, and hears the signal after the drain."""
    port = free_port()
    options = ("--metadata", "version=3", "--zone", "z1", "--id", "shop-1", "--drain", "1.5")
    with running(registry, port, *options) as run:
        run.says(f"resilient: shop is registered at eureka://127.0.0.1:{registry.port}/eureka as shop-1")
        lease = registry.store.get("SHOP", "shop-1")
        assert lease is not None
        assert (lease.record.host, lease.record.port.number) == ("127.0.0.1", port)
        assert lease.record.metadata.items() >= {"version": "3", "zone": "z1"}.items()
        assert run.out().startswith("open ")
        begun = time.monotonic()
        run.send(signal.SIGTERM)
        wait_until(lambda: not listed(registry), what="leaving")
        assert "heard" not in run.out()
        run.says("heard SIGTERM")
        assert time.monotonic() - begun >= 1.4
        assert run.ends() == 0
        assert "is taken out" in run.err()


def test_it_is_not_registered_before_its_port_opens(registry: RegistryServer, tmp_path: Path) -> None:
    """However long that takes."""
    port, gate = free_port(), tmp_path / "gate"
    os.mkfifo(gate)
    late = f"open({str(gate)!r}).read()\n{SERVER}"
    with running(registry, port, program=[sys.executable, "-u", "-c", late, str(port)]) as run:
        with gate.open("w") as held:  # opens when the program has come to read
            assert not listed(registry)
            held.write("go")
        wait_until(lambda: listed(registry), what="the registration")
        run.send(signal.SIGTERM)
        assert run.ends() == 0


def test_ctrl_c_is_passed_on_without_a_drain(registry: RegistryServer) -> None:
    """Out of the registry, then the signal, at once; the exit status is the program's."""
    port = free_port()
    with running(registry, port, "--drain", "60", program=[*SERVES, str(port), "7"]) as run:
        run.says("is registered")
        run.send(signal.SIGINT)
        assert run.ends() == 7
        assert run.out().count("heard SIGINT") == 1
        assert not listed(registry)


def test_ctrl_c_in_a_terminal_is_heard_once(registry: RegistryServer, tmp_path: Path) -> None:
    """The terminal tells everybody in front of it: passing that on would interrupt the program's own ending."""
    port = free_port()
    main, side = os.openpty()
    out = tmp_path / "out"

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(side, termios.TIOCSCTTY, 0)

    line = [sys.executable, "-m", "resilient", "run", "--service", "shop", "--port", str(port), "--host", "127.0.0.1"]
    with out.open("wb") as written:
        run = subprocess.Popen(
            [*line, "--registry", registry.url, "--", *SERVES, str(port), "9"],
            stdin=side, stdout=written, stderr=written, preexec_fn=take_terminal,  # noqa: PLW1509  # two system calls
        )  # fmt: skip
    try:
        wait_until(lambda: listed(registry), timeout=20.0, what="the registration")
        os.write(main, b"\x03")
        assert run.wait(20) == 9
        assert out.read_text().count("heard SIGINT") == 1
        assert not listed(registry)
    finally:
        run.kill()
        run.wait()
        os.close(main)
        os.close(side)


def test_a_second_sigterm_ends_the_drain(registry: RegistryServer) -> None:
    """Whoever is in a hurry says it twice."""
    port = free_port()
    with running(registry, port, "--drain", "60") as run:
        run.says("is registered")
        run.send(signal.SIGTERM)
        run.says("is taken out")
        run.send(signal.SIGTERM)
        assert run.ends() == 0
        assert run.out().count("heard SIGTERM") == 1


def test_other_signals_are_passed_on(registry: RegistryServer) -> None:
    """Each of them, at once, and it stays registered: gunicorn reloads and scales by them."""
    port = free_port()
    with running(registry, port) as run:
        run.says("is registered")
        for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGTTIN"):
            run.send(getattr(signal, name))
            run.says(f"heard {name}")
        assert listed(registry)
        run.send(signal.SIGTERM)
        assert run.ends() == 0


@pytest.mark.parametrize(("how", "status"), [("exit", 5), ("kill", 128 + 9)])
def test_a_program_that_dies_is_taken_out(registry: RegistryServer, how: str, status: int) -> None:
    """At once, not after its lease; the exit status is its own, 128 + N for a signal."""
    port = free_port()
    with running(registry, port, program=[*SERVES, str(port), "5"]) as run:
        run.says("is registered")
        child = int(re.findall(r"open (\d+)", run.out())[0])
        os.kill(child, signal.SIGTERM if how == "exit" else signal.SIGKILL)
        assert run.ends() == status
        assert not listed(registry)


def test_a_program_that_dies_early_was_never_registered(registry: RegistryServer) -> None:
    """Its exit status is all there is to say."""
    with running(registry, free_port(), program=[sys.executable, "-c", "raise SystemExit(3)"]) as run:
        assert run.ends() == 3
        assert run.err() == ""


def test_a_program_that_is_ended_while_it_starts_is_not_registered(registry: RegistryServer) -> None:
    """The signal is passed on, the port not waited for any longer."""
    sleeps = [sys.executable, "-u", "-c", "import time; print('there'); time.sleep(60)"]
    with running(registry, free_port(), program=sleeps) as run:
        run.says("there")
        run.send(signal.SIGTERM)
        assert run.ends() == 128 + 15
        assert not listed(registry)


def test_a_port_that_never_opens_is_one_sentence(registry: RegistryServer) -> None:
    """The program is ended; exit status 125."""
    port = free_port()
    sleeps = [sys.executable, "-u", "-c", "import time; time.sleep(60)"]
    with running(registry, port, "--wait", "0.3", program=sleeps) as run:
        assert run.ends() == 125
        assert run.err() == (
            f"resilient: nothing listens on port {port} after 0.3 s: does the program open another one? "
            "It is ended; --wait gives it more time\n"
        )
        assert not listed(registry)


def test_a_stranger_on_the_port_is_not_registered(registry: RegistryServer) -> None:
    """Nothing is started; exit status 125."""
    with running(registry, registry.port) as run:
        assert run.ends() == 125
        assert run.err() == (
            f"resilient: somebody already listens on 127.0.0.1 port {registry.port}: nothing is started\n"
        )


@pytest.mark.parametrize(
    ("program", "status", "why"),
    [(["/no/such/program"], 127, "No such file or directory"), (["/etc/passwd"], 126, "Permission denied")],
)
def test_a_program_that_can_not_be_started_is_one_sentence(program: list[str], status: int, why: str) -> None:
    """With the exit statuses that shells give."""
    done = command("run", "--service", "shop", "--port", str(free_port()), "--", *program)
    assert (done.returncode, done.stderr) == (status, f"resilient: cannot run {program[0]}: {why}\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--service", "shop", "--port", "80"), "Write the program behind two dashes"),
        (("--service", "shop", "--port", "80", "--"), "Write the program behind two dashes"),
        (("--service", "shop", "--port", "0", "--", "true"), "which one does it open?"),
        (("--service", "shop", "--", "true"), "required: --port"),
        (("--service", "a b", "--port", "80", "--", "true"), "service must be letters, digits"),
        (("--service", "shop", "--port", "80", "--metadata", "x", "--", "true"), "metadata is key=value, not 'x'"),
        (("--service", "shop", "--port", "80", "--health", "health", "--", "true"), "a path begins with a slash"),
        (("--service", "shop", "--port", "80", "--drain", "-1", "--", "true"), "seconds are a number 0 or more"),
        (
            ("--service", "shop", "--port", "80", "--registry", "static://a=b:1", "--", "true"),
            "nothing can be registered",
        ),
        (("--service", "shop", "--port", "80", "--registry", "nope", "--", "true"), "no scheme"),
    ],
)
def test_what_is_not_understood_is_refused(words: tuple[str, ...], text: str) -> None:
    """Exit status 2, a sentence, and nothing is started."""
    done = command("run", *words)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_registry_that_is_down_does_not_keep_the_program_from_serving() -> None:
    """It is told once, asked again and again, and the program is registered when it is back."""
    with RegistryProcess() as registry:
        registry.kill()
        port = free_port()
        words = ("run", "--service", "shop", "--port", str(port), "--registry", registry.url, "--json", "--drain", "0")
        with Started(*words, "--", *SERVES, str(port)) as run:
            run.says('"event": "registry_down"')
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                assert answer.status == 200
            registry.start()
            run.says('"event": "registered"', timeout=40)
            run.send(signal.SIGTERM)
            assert run.ends() == 0
            events = [json.loads(line)["event"] for line in run.err().splitlines()]
            assert events[0] == "registry_down"
            assert events[-1] == "left"


def test_a_sick_program_is_listed_as_down(registry: RegistryServer) -> None:
    """With `--health`, asked before each renewal; it is registered all the same, and not UP."""
    port = free_port()
    url = f"{registry.url}?renew_interval=0.3&lease=5"
    words = ("run", "--service", "shop", "--port", str(port), "--host", "127.0.0.1", "--registry", url)
    with Started(*words, "--health", "/health", "--drain", "0", "--", *SERVES, str(port)) as run:

        def status() -> str:
            leases = registry.store.app("SHOP")
            return leases[0].record.status if leases else ""

        wait_until(lambda: status() == "UP", what="UP")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/sick", timeout=10):
            pass
        wait_until(lambda: status() == "DOWN", what="DOWN")
        run.send(signal.SIGTERM)
        assert run.ends() == 0
        assert not listed(registry)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_the_program_starts_with_untouched_signals(registry: RegistryServer) -> None:
    """None is blocked; SIGPIPE, which Python ignores, ends the program again."""
    show = ["sh", "-c", "exec grep -E 'Sig(Blk|Ign)' /proc/self/status"]
    with running(registry, free_port(), program=show) as run:
        assert run.ends() == 0
        masks = dict(line.split(":\t") for line in run.out().splitlines())
        assert int(masks["SigBlk"], 16) == 0
        assert not int(masks["SigIgn"], 16) & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGTERM - 1))


def unshare() -> list[str] | None:
    """How to become the first process of a container, where we may."""
    line = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    for more in ([], ["--user", "--map-root-user"]):
        try:
            if subprocess.run([*line, *more, "true"], capture_output=True, timeout=10, check=False).returncode == 0:
                return [*line, *more]
        except (OSError, subprocess.TimeoutExpired):
            return None
    return None


def test_it_is_a_good_first_process_of_a_container(registry: RegistryServer) -> None:
    """As PID 1 it hears SIGTERM and leaves no zombies of orphans."""
    line = unshare()
    if line is None:
        pytest.skip("needs unshare --pid, which this system does not allow")
    port = free_port()
    orphans = (
        f"import subprocess; [subprocess.Popen(['sh', '-c', 'sleep 0.05 & exit 0']).wait() for _ in range(5)]\n{SERVER}"
    )
    ours = [sys.executable, "-m", "resilient", "run", "--service", "shop", "--port", str(port), "--host", "127.0.0.1"]
    program = [sys.executable, "-u", "-c", orphans, str(port), "4"]
    with Started(*line, *ours, "--registry", registry.url, "--drain", "0", "--", *program, whole=True) as run:
        run.says("is registered")
        (first,) = psutil.Process(run.pid).children()

        def zombies() -> list[psutil.Process]:
            return [child for child in first.children() if child.status() == psutil.STATUS_ZOMBIE]

        wait_until(lambda: len(first.children()) == 1 and not zombies(), what="the end of the orphans")
        first.send_signal(signal.SIGTERM)
        assert run.ends() == 4
        assert not listed(registry)
        assert "heard SIGTERM" in run.out()


GUNICORN = """
import os
def app(environ, start_response):
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.mark.timeout(90)
def test_gunicorn_with_workers_is_registered_once(registry: RegistryServer, tmp_path: Path) -> None:
    """A real one: prefork, three workers, reloaded, scaled and ended gracefully, one entry all the time."""
    (tmp_path / "shop.py").write_text(GUNICORN)
    port = free_port()
    gunicorn = [sys.executable, "-m", "gunicorn", "--chdir", str(tmp_path), "--workers", "3", "--graceful-timeout", "5",
                "--bind", f"127.0.0.1:{port}", "--no-control-socket", "shop:app"]  # fmt: skip
    with running(registry, port, "--drain", "0.2", program=gunicorn) as run:
        run.says("is registered")

        def workers() -> set[str]:
            found = set()
            for _ in range(20):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                    found.add(answer.read().decode())
            return found

        assert len(listed(registry)) == 1
        before = workers()
        run.send(signal.SIGHUP)
        wait_until(lambda: workers().isdisjoint(before), timeout=20.0, what="new workers")
        run.send(signal.SIGTTIN)
        run.says("ttin", timeout=10.0)
        assert len(listed(registry)) == 1
        run.send(signal.SIGTERM)
        assert run.ends() == 0
        assert not listed(registry)
        assert "Traceback" not in run.err()


def test_a_signal_without_a_name_is_passed_on(registry: RegistryServer) -> None:
    """Real-time signals, which containers and service managers send: nothing breaks, and the program has them."""
    port, number = free_port(), signal.SIGRTMIN + 3
    told = f"import signal\nsignal.signal({number}, lambda *_: print('heard it', flush=True))\n{SERVER}"
    with running(registry, port, program=[sys.executable, "-u", "-c", told, str(port)]) as run:
        run.says("is registered")
        run.send(number)
        run.says("heard it")
        run.send(signal.SIGTERM)
        assert run.ends() == 0


def test_nobody_reading_its_sentences_does_not_let_the_program_down(registry: RegistryServer) -> None:
    """`2>&1 | head`: the program is served, hears the signal and its status is the command's."""
    port = free_port()
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.Popen(
        [sys.executable, "-m", "resilient", "run", "--service", "shop", "--port", str(port), "--host", "127.0.0.1",
         "--registry", registry.url, "--", *SERVES, str(port), "7"],
        stdout=subprocess.PIPE, stderr=writer, text=True,
    )  # fmt: skip
    os.close(writer)
    try:
        wait_until(lambda: listed(registry), timeout=20.0, what="the registration")
        run.send_signal(signal.SIGTERM)
        said, _ = run.communicate(timeout=20)
        assert "heard SIGTERM" in said
        assert run.returncode == 7
        assert not listed(registry)
    finally:
        run.kill()
        run.wait()


def test_the_end_is_noticed_although_sigchld_was_ignored() -> None:
    """By whoever started the command: an ignored SIGCHLD is inherited, and then nobody can be waited for."""
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
    )
    line = [sys.executable, "-m", "resilient", "run", "--service", "shop", "--port", str(free_port()),
            "--registry", "eureka://127.0.0.1:1", "--", sys.executable, "-c", "raise SystemExit(5)"]  # fmt: skip
    with Started(sys.executable, "-c", ignoring, *line, whole=True) as run:
        assert run.ends() == 5
