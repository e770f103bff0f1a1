"""The activities of an actor as spans of its own wall clock, kept until the driver takes them. Imports nothing heavy."""

import functools
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, Protocol, TypeVar

MAX_SPANS = 10_000
"""Upper bound on the spans that an actor keeps. The oldest spans are dropped first."""
EPOCH_S = time.time() - time.monotonic()
"""Offset from the monotonic clock to the epoch. The monotonic clock is never set back, so no span has a negative length."""

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


@dataclass(frozen=True, slots=True)
class Span:
    """An activity without a break."""

    name: str
    start: float
    """Start in seconds since the epoch, by the clock of the actor's host."""
    end: float
    """End in seconds since the epoch, by the same clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorSpans:
    """The spans of an actor since its spans were last taken."""

    kind: str
    """Kind of the actor, such as `rollout worker`."""
    number: int
    """Index of the actor among the actors of its kind, from 0."""
    spans: tuple[Span, ...]


def now() -> float:
    """Return the seconds since the epoch, by the clock at the start of this process and the monotonic time since."""
    return EPOCH_S + time.monotonic()


class SpanLog:
    """The spans of an actor, recorded by a single thread or a single event loop."""

    def __init__(self) -> None:
        self._ended: deque[Span] = deque(maxlen=MAX_SPANS)
        self._state: str | None = None
        self._since = 0.0

    def switch(self, state: str | None) -> None:
        """Record the actor's state from now on, None for idle. Setting the present state again does not cut its span."""
        if state != self._state:
            self._cut(now())
            self._state = state

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Record the block as a span in addition to the actor's state. Blocks may nest."""
        start = now()
        try:
            yield
        finally:
            self._ended.append(Span(name, start, now()))

    def take(self) -> tuple[Span, ...]:
        """Return the spans since the last call, ordered by their ends. A lasting state is cut in two here."""
        self._cut(now())
        taken = tuple(self._ended)
        self._ended.clear()
        return taken

    def _cut(self, at: float) -> None:
        if self._state is not None:
            self._ended.append(Span(self._state, self._since, at))
        self._since = at


class Recording(Protocol):
    """An object with a span log."""

    spans: SpanLog


Recorder = TypeVar("Recorder", bound=Recording)


def recorded(
    method: Callable[Concatenate[Recorder, Arguments], Returned],
) -> Callable[Concatenate[Recorder, Arguments], Returned]:
    """Return the method with a recording: each call adds a span of the method's name."""

    @functools.wraps(method)
    def call(self: Recorder, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        with self.spans.during(method.__name__):
            return method(self, *args, **kwargs)

    return call
