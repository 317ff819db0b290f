"""What `resilient run` does, step by step: start, wait for the port, register, drain, end."""

from __future__ import annotations

import argparse
import signal
import sys
import time

from resilient.cli.child import Child, Heard
from resilient.cli.opening import accepting, healthy
from resilient.cli.output import as_json, complain, plain, silence
from resilient.discovery import (
    Registered,
    RegistrationLost,
    RegistrationRegained,
    Registry,
    RegistryBack,
    RegistryDown,
)
from resilient.events import Event, listen

CANNOT, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127  # exit statuses, as env, timeout and docker run have them
_LOOK = 0.1  # seconds between two looks at the port
_ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
_LOCAL = ("127.0.0.1", "::1")
_PATIENCE = 10.0  # seconds that a program which is ended for us has, before it is killed


class Running:
    """One program and its entry in the registry.

    Args:
        args: what the command line says.
        registry: where it is registered.

    Raises:
        ConfigError: when what would be registered is wrong.
    """

    def __init__(self, args: argparse.Namespace, registry: Registry) -> None:
        self._args = args
        self._registry = registry
        self._hosts = [*_LOCAL, *([args.host] if args.host else [])]
        self._answers: str = _LOCAL[0]  # the host on which the program does
        self._registration = registry.register(
            args.service,
            port=args.port,
            host=args.host,
            id=args.id,
            secure=args.secure,
            zone=args.zone,
            metadata=dict(args.metadata),
            health=self._healthy if args.health else None,
        )
        self._told = self._left = self._asked = False

    def run(self) -> int:
        """Do all of it; the exit status."""
        args = self._args
        taken = accepting(self._hosts, args.port)
        if taken is not None:  # else we would register a stranger, and take him out when our program fails
            self._tell("port_taken", f"somebody already listens on {taken} port {args.port}: nothing is started")
            return CANNOT
        try:
            child = Child(args.program)
        except OSError as error:
            self._tell("not_started", f"cannot run {plain(args.program[0])}: {error.strerror or error}")
            return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        try:
            return self._run(child)
        except BaseException:
            child.send(signal.SIGTERM)  # nobody would pass that on any more
            raise

    def _run(self, child: Child) -> int:
        for kind in (RegistryDown, RegistryBack, Registered, RegistrationLost):
            listen(self._on_event, kind)  # their threads begin after the signals were blocked, and hear none
        opened = self._wait_for_port(child)
        if not opened:
            return self._give_up(child) if child.running() and not self._asked else self._end(child)
        self._registration.__enter__()
        try:
            self._serve(child)
        finally:
            self._leave()
        return self._end(child)

    def _wait_for_port(self, child: Child) -> bool:
        """Whether the port opened; false when its time is over, the program ended or was asked to."""
        end = time.monotonic() + self._args.wait
        while child.running() and time.monotonic() < end:
            heard = child.hear(_LOOK)
            if heard is not None:
                self._pass_on(child, heard)
                self._asked = heard.number in _ENDING
                if self._asked:
                    return False
            found = accepting(self._hosts, self._args.port) if child.running() else None
            if found is not None:
                self._answers = found
                return True
        return False

    def _serve(self, child: Child) -> None:
        """Until the program ends, or is to end."""
        while child.running():
            heard = child.hear(None)
            if heard is None:
                continue
            if heard.number == signal.SIGTERM:
                self._leave()
                self._drain(child)
                child.send(signal.SIGTERM)
                return
            if heard.number == signal.SIGINT:
                if not heard.from_terminal:
                    child.send(signal.SIGINT)
                return
            self._pass_on(child, heard)

    def _drain(self, child: Child) -> None:
        """Let callers notice; a signal that means haste ends it."""
        end = time.monotonic() + self._args.drain
        while child.running() and (left := end - time.monotonic()) > 0:
            heard = child.hear(left)
            if heard is None:
                continue
            if heard.number == signal.SIGTERM:
                return
            self._pass_on(child, heard)
            if heard.number in {signal.SIGINT, signal.SIGQUIT}:
                return

    def _end(self, child: Child) -> int:
        """Wait for a program that was asked to end, as long as it takes; its exit status."""
        while child.running():
            heard = child.hear(None)
            if heard is not None:
                self._pass_on(child, heard)
        return CANNOT if child.status is None else child.status

    def _give_up(self, child: Child) -> int:
        args = self._args
        self._tell(
            "port_never_opened",
            f"nothing listens on port {args.port} after {args.wait:g} s: does the program open another one? "
            "It is ended; --wait gives it more time",
        )
        child.send(signal.SIGTERM)
        child.hear(_PATIENCE)
        if child.running():
            child.send(signal.SIGKILL)
            child.hear(_PATIENCE)
        self._registry.close()
        return CANNOT

    def _leave(self) -> None:
        """Take the entry out; twice is fine."""
        if self._left:
            return
        self._left = True
        self._registration.close()
        self._registry.close()
        if self._told:
            self._tell("left", f"{self._args.service} is taken out of {self._registry_name}")

    def _pass_on(self, child: Child, heard: Heard) -> None:
        if not heard.from_terminal:  # else it has heard it too
            child.send(heard.number)

    def _healthy(self) -> bool:
        return healthy(self._answers, self._args.port, self._args.health, secure=self._args.secure)

    @property
    def _registry_name(self) -> str:
        return self._registry._name

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RegistryDown):
            self._tell("registry_down", f"{event.name} does not answer: {plain(event.reason)}; it is asked again")
        elif isinstance(event, RegistryBack):
            self._tell("registry_back", f"{event.name} answers again")
        elif isinstance(event, RegistrationLost):
            self._tell("registration_lost", f"{event.name} is not registered: {plain(event.reason)}; it is tried again")
        elif isinstance(event, Registered):
            self._told = True
            again = " again" if isinstance(event, RegistrationRegained) else ""
            where = f"{self._registry_name} as {plain(event.instance.id)}"
            self._tell("registered", f"{event.name} is registered{again} at {where}")

    def _tell(self, word: str, sentence: str) -> None:
        try:
            if self._args.json:
                print(as_json({"event": word, "message": sentence}), file=sys.stderr, flush=True)  # noqa: T201
            else:
                complain(sentence)
        except OSError:  # nobody reads it any more: no reason to let the program down
            silence(sys.stderr)
