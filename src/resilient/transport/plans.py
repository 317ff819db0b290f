"""The policies of a key, laid open around the routing: what wraps the call, the Retry, what wraps each attempt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from resilient.errors import ConfigError
from resilient.outcome import Classification
from resilient.pipeline import Pipeline
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.policy import AsyncCall, Call, Policy


class Plan:
    """How a transport runs the policies of a key.

    Args:
        pipeline: the policies, outermost first.
        key: for errors.
        heed: hears the failed answer that leaves, if there is one.

    Raises:
        ConfigError: when they can not be run around attempts at several instances.
    """

    __slots__ = ("attempt", "call", "heed", "holds", "own", "pipeline", "retry")

    def __init__(self, pipeline: Pipeline[Any], key: str, *, heed: Callable[[Exception], None] | None = None) -> None:
        layers = pipeline.layers
        retries = [place for place, layer in enumerate(layers) if isinstance(layer, Retry)]
        if len(retries) > 1:
            raise ConfigError(f"policies of {key!r}: one Retry says how often, not {len(retries)}", path="policies")
        if retries and any(layer.kind == "hedge" for layer in layers):
            raise ConfigError(f"policies of {key!r}: Retry and Hedge together multiply: use one", path="policies")
        place = retries[0] if retries else len(layers)
        outer, inner = layers[:place], layers[place + 1 :]
        self.pipeline = pipeline
        self.heed = heed
        self.holds = any(getattr(layer, "holds", False) for layer in layers)  # places, until the answer's body ends
        self.retry: Retry | None = layers[place] if retries else None  # type: ignore[assignment]  # looked at above
        if self.retry is not None and self.retry._given.on_result is not None:
            raise ConfigError(
                f"policies of {key!r}: a transport's Retry judges answers by their status and never asks on_result;"
                " put a Retry around the client's call",
                path="policies",
            )
        self.own = {id(layer): layer for layer in layers if isinstance(layer, Timeout)}
        self.attempt = _Part(inner) if inner else None
        self.call = (
            _Part([*outer, Inside(layers[place:])]) if outer else None
        )  # a breaker asks how long a call may take

    @property
    def layers(self) -> tuple[Policy[Any], ...]:
        """All of them."""
        return self.pipeline.layers


class _Part(Pipeline[Any]):
    """Some of the policies. Their limits only lower the deadline: the transport enforces it, without a thread."""

    def __init__(self, layers: Sequence[Policy[Any]]) -> None:
        super().__init__(*(_Lowering(layer) if isinstance(layer, Timeout) else layer for layer in layers))


class _Lowering(Policy[Any]):
    """A Timeout that is not enforced around the call."""

    def __init__(self, timeout: Timeout) -> None:
        self._timeout = timeout  # no label: nobody sees it

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        return self._timeout.layer(inner, limit, given)

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        return self._timeout.alayer(inner, limit, given)

    def granted(self, limit: float) -> float:
        return self._timeout.granted(limit)


class Inside(Policy[Any]):
    """No layer: says how long what lies further in is granted, or stands where there are no policies at all."""

    def __init__(self, layers: Sequence[Policy[Any]]) -> None:
        self._layers = layers  # no label: nobody sees it

    def layer(self, inner: Call, limit: float, given: Classification) -> Call:
        """`inner` itself."""
        return inner

    def alayer(self, inner: AsyncCall, limit: float, given: Classification) -> AsyncCall:
        """`inner` itself."""
        return inner

    def granted(self, limit: float) -> float:
        """What they grant together."""
        for layer in reversed(self._layers):
            limit = layer.granted(limit)
        return limit

    def adopt_name(self, name: str) -> None:
        """It has none."""

    def describe(self) -> str:
        """For pages."""
        return "nothing"

    def __repr__(self) -> str:
        return "nothing"
