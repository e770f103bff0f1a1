"""What an actor did when: spans of its own wall clock, kept until the driver takes them. Every process can afford this module."""

import functools
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, Protocol, TypeVar

MAX_SPANS = 10_000
"""What an actor keeps that nobody takes: the last so many."""
EPOCH_S = time.time() - time.monotonic()
"""The epoch on the clock that is never set back, so that no span has a negative length."""

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Span:
    """Something that was done without a break."""

    name: str
    start: float
    """Seconds since the epoch, by the clock of the host on which it was done."""
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorSpans:
    """What one actor did since it was last asked."""

    kind: str
    """Such as `rollout worker`."""
    number: int
    """Counts the actors of a kind from 0."""
    spans: tuple[Span, ...]


def now() -> float:
    """Return the seconds since the epoch, as this process knew them when it started and has counted since."""
    return EPOCH_S + time.monotonic()


class SpanLog:
    """The spans of one actor, recorded by one thread or one event loop."""

    def __init__(self) -> None:
        self._ended: deque[Span] = deque(maxlen=MAX_SPANS)
        self._state: str | None = None
        self._since = 0.0

    def switch(self, state: str | None) -> None:
        """Say what the actor does from here on, None for nothing; a state that it is in already goes on."""
        if state != self._state:
            self._cut(now())
            self._state = state

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Record the block, beside the actor's state; blocks may be in one another."""
        start = now()
        try:
            yield
        finally:
            self._ended.append(Span(name, start, now()))

    def take(self) -> tuple[Span, ...]:
        """Return what was not taken before, in the order of the ends. A state that lasts is cut in two here."""
        self._cut(now())
        taken = tuple(self._ended)
        self._ended.clear()
        return taken

    def _cut(self, at: float) -> None:
        if self._state is not None:
            self._ended.append(Span(self._state, self._since, at))
        self._since = at


class Recording(Protocol):
    """Whatever has a span log."""

    spans: SpanLog


Recorder = TypeVar("Recorder", bound=Recording)


def recorded(
    method: Callable[Concatenate[Recorder, Arguments], Answer],
) -> Callable[Concatenate[Recorder, Arguments], Answer]:
    """Return the method, each call of which leaves a span of the method's name."""

    @functools.wraps(method)
    def call(self: Recorder, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        with self.spans.during(method.__name__):
            return method(self, *args, **kwargs)

    return call
