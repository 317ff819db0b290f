"""`resilient registry`: it says where it is, asks who may come in, and ends quietly."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import Started, command
from tests.registry_calls import ask, register
from tests.servers import RegistryProcess
from tests.waiting import wait_until


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_where_it_is_and_ends_quietly(number: signal.Signals) -> None:
    """One line once it answers; Ctrl-C and SIGTERM end it with 0, also with a connection open and idle."""
    with RegistryProcess() as registry:
        assert registry.line == f"registry listening on {registry.http}/eureka (status page: {registry.http}/)"
        idle = http.client.HTTPConnection("127.0.0.1", registry.port, timeout=10)
        idle.request("GET", "/eureka/apps")
        assert idle.getresponse().read().startswith(b"<applications>")
        assert registry.errors() == ""
        assert registry.stop(number) == 0
        idle.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_signal_during_the_start_is_not_lost() -> None:
    """From the moment it handles SIGTERM it ends with 0, whatever it was importing."""
    process = subprocess.Popen(
        [sys.executable, "-m", "resilient", "registry", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )

    def handles_sigterm() -> bool:
        caught = re.search(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{process.pid}/status").read_text())
        return caught is not None and bool(int(caught[1], 16) & 1 << (signal.SIGTERM - 1))

    try:
        wait_until(handles_sigterm, what="a handler of SIGTERM")
        process.terminate()
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, b"")
    finally:
        process.kill()
        process.communicate()


def test_a_killed_registry_comes_back_empty_on_its_port() -> None:
    """Everything is in memory; clients register again after a 404."""
    with RegistryProcess() as registry:
        register(registry.port)
        port, pid = registry.port, registry.pid
        registry.restart()
        assert registry.port == port
        assert registry.pid != pid
        assert ask(port, "PUT", "/eureka/apps/DEMO/i-1").status == 404


def test_a_port_in_use_is_one_sentence() -> None:
    """Exit status 1, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = command("registry", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"resilient: cannot listen on 127\.0\.0\.1 port \d+: Address already in use\n", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--port", "x"), "a port is a whole number from 0 to 65535, not 'x'"),
        (("--port", "65536"), "a port is a whole number from 0 to 65535, not '65536'"),
        (("--port", "-1"), "a port is a whole number from 0 to 65535, not '-1'"),
        (("--eviction-interval", "0"), "seconds are a number more than 0, not '0'"),
        (("--eviction-interval", "nan"), "seconds are a number more than 0, not 'nan'"),
    ],
)
def test_a_bad_option_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    """Exit status 2, usage and the reason."""
    done = command("registry", *arguments)
    assert done.returncode == 2
    assert done.stderr.rstrip().endswith(sentence)
    assert "Traceback" not in done.stderr


def test_a_host_that_is_not_ours_is_one_sentence() -> None:
    """Exit status 1, no traceback."""
    done = command("registry", "--bind", "192.0.2.1", "--port", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("resilient: cannot listen on 192.0.2.1 port 0: ")
    assert done.stderr.count("\n") == 1


def test_a_missing_extra_is_one_sentence(tmp_path: Path) -> None:
    """It names what to install."""
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('no uvicorn', name='uvicorn')\n")
    done = command("registry", "--port", "0", environment={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr == "resilient: the registry server needs uvicorn: pip install 'resilient-patterns[server]'\n"


def test_the_command_alone_shows_its_help() -> None:
    """Exit status 2; `--version` names the version."""
    done = command()
    assert (done.returncode, done.stdout) == (2, "")
    assert "run a small Eureka-compatible service registry" in done.stderr
    assert re.fullmatch(r"resilient \d+\.\d+\.\d+\n", command("--version").stdout)


def test_it_says_where_it_is_for_programs() -> None:
    """One line of JSON once it answers."""
    with Started("registry", "--port", "0", "--json") as registry:
        registry.says("\n")
        said = json.loads(registry.out())
        assert said["event"] == "listening"
        assert said["page"] == said["url"].replace("eureka://", "http://") + "/"
        assert registry.err() == ""


def port_of(registry: Started) -> int:
    """Where it listens."""
    registry.says("registry listening on ")
    return int(re.findall(r":(\d+)/eureka", registry.out())[0])


@pytest.mark.parametrize("by", ["environment", "file"])
def test_it_asks_for_the_password_that_it_was_given(by: str, tmp_path: Path) -> None:
    """From the environment or a file; it is not in the list of processes."""
    words, environment = ["registry", "--port", "0", "--user", "ops"], {}
    if by == "file":
        (tmp_path / "password").write_text("s3cret\nsecond line\n")
        words += ["--password-file", str(tmp_path / "password")]
    else:
        environment["RESILIENT_REGISTRY_PASSWORD"] = "s3cret"
    with Started(*words, environment=environment) as registry:
        port = port_of(registry)
        assert ask(port, "GET", "/").status == 401
        assert ask(port, "GET", "/eureka/apps").status == 401
        done = command("services", f"eureka://ops:s3cret@127.0.0.1:{port}")
        assert (done.returncode, done.stderr) == (0, "resilient: nobody is registered\n")
        line = Path(f"/proc/{registry.pid}/cmdline")
        assert not line.exists() or b"s3cret" not in line.read_bytes()


@pytest.mark.parametrize(
    ("words", "environment", "text"),
    [
        (("--user", "ops"), {}, "--user needs a password: set $RESILIENT_REGISTRY_PASSWORD, or give --password-file"),
        (("--user", "o:p"), {"RESILIENT_REGISTRY_PASSWORD": "x"}, "a user of HTTP basic authentication has no colon"),
        (("--password-file", "x"), {}, "--password-file needs --user"),
        (("--user", "ops", "--password-file", "/no/such"), {}, "cannot read the password in /no/such: No such file"),
        (("--user", "ops", "--password-file", "/dev/null"), {}, "the first line of /dev/null is empty"),
    ],
)
def test_a_password_that_is_missing_is_one_sentence(
    words: tuple[str, ...], environment: dict[str, str], text: str
) -> None:
    """It does not start unguarded instead."""
    done = command("registry", "--port", "0", *words, environment=environment)
    assert done.returncode == 1
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_open_door_is_told() -> None:
    """On an address that others reach, without a password, it says so; with one it does not."""
    with Started("registry", "--port", "0", "--bind", "0.0.0.0") as registry:
        port = port_of(registry)
        registry.says(f"resilient: whoever reaches port {port} may read and register; --user asks for a password\n")


def test_its_limits_are_options() -> None:
    """Beyond the number of instances a registration is refused."""
    with Started("registry", "--port", "0", "--max-instances", "1", "--self-preservation") as registry:
        port = port_of(registry)
        register(port, "a")
        refused = ask(port, "POST", "/eureka/apps/DEMO", json.dumps({"instance": {
            "instanceId": "b", "hostName": "h", "app": "DEMO", "ipAddr": "i",
            "dataCenterInfo": {"@class": "com.netflix.appinfo.MyDataCenterInfo", "name": "MyOwn"},
        }}).encode(), {"Content-Type": "application/json"})  # fmt: skip
        assert refused.status == 507
