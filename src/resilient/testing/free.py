"""What gates hand out while they are disabled: permits that settle nothing."""

from __future__ import annotations

from typing import Self


class FreePermit:
    """A permit that nobody counts."""

    __slots__ = ()

    def success(self) -> None:
        """Nothing."""

    def failure(self, error: Exception | None = None, /) -> None:
        """Nothing."""

    def ignored(self) -> None:
        """Nothing."""

    def unused(self) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class FreeCalling:
    """A block that nothing guards."""

    __slots__ = ()

    def __enter__(self) -> FreePermit:
        return FreePermit()

    def __exit__(self, *exc: object) -> None:
        pass

    async def __aenter__(self) -> FreePermit:
        return FreePermit()

    async def __aexit__(self, *exc: object) -> None:
        pass
