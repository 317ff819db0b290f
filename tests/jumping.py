"""A clock whose sleepers do not wait: time jumps, and the sleeps are noted."""

from __future__ import annotations

from resilient.testing import VirtualClock


class JumpingClock(VirtualClock):
    """Virtual time that a sleep moves on by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    def sleep(self, seconds: float, /) -> None:
        """Note it, and be there."""
        self.slept.append(seconds)
        self.advance(seconds)

    async def sleep_async(self, seconds: float, /) -> None:
        """The same for tasks."""
        self.sleep(seconds)


class Script:
    """A call that answers what it was told to, one after the other: errors are raised, the last one stays."""

    def __init__(self, *answers: object) -> None:
        self._answers = list(answers)
        self.calls = 0

    def __call__(self) -> object:
        """The next answer."""
        self.calls += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, type) and issubclass(answer, BaseException):
            raise answer(f"attempt {self.calls}")
        return answer
