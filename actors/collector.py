"""An actor between the pool and its workers: it calls them, and passes on their completions in batches.

A call of Ray and a part of a stream each cost a process several tenths of a millisecond, whatever is at the other end. The collector
pays that for each message; the driver pays for a batch.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from actors.worker import Ended
from ovt_ray.core.spans import Span
from ovt_ray.core.types import Problem, Sampling
from ovt_ray.core.weights.version import Weights

WAIT_S = 1.0
"""Longest wait for an event: an empty answer says that there was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallMessage:
    """A call to a worker."""

    call: int
    """Number of the call, by which its events name it."""
    slot: int
    """Number of the called worker's slot."""
    problems: tuple[Problem, ...]
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEvent:
    """An event of a call: some completions have ended, or the call failed."""

    call: int
    ended: Sequence[Ended] = ()
    refusal: str = ""
    """Reason for which the engine refuses a problem; empty if it refuses none."""
    death: str = ""
    """Cause of the worker's death; empty while it lives."""


class Collector:
    """Calls workers, and keeps the events of these calls until the driver asks for them."""

    def __init__(self) -> None:
        self._workers: dict[int, Any] = {}
        """Actor handles, by slot."""
        self._following: dict[int, asyncio.Task[None]] = {}
        """Calls that have not ended."""
        self._first_call = 0
        """Calls before it are abandoned. Their messages may still arrive, as Ray does not promise an order."""
        self._unreported: list[CallEvent] = []
        self._has_event = asyncio.Event()
        self._all_ended = asyncio.Event()

    async def assign(self, workers: dict[int, Any]) -> None:
        """Take workers to call, by slot, in place of earlier ones of the same slots."""
        self._workers |= workers

    async def call(self, messages: Sequence[CallMessage]) -> None:
        """Call workers; `events` returns their answers."""
        for message in messages:
            self._all_ended.clear()
            if message.call >= self._first_call:
                self._following[message.call] = asyncio.create_task(self._follow(message))

    async def events(self, messages: Sequence[CallMessage], gather_s: float) -> list[CallEvent]:
        """Call workers, and return all events that are not reported yet.

        Waits for the first event, then `gather_s` for others, or less if no call is left that could bring one.
        """
        await self.call(messages)
        # A timeout of the first wait skips the second as well: then there is nothing to gather for.
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                await self._has_event.wait()
            async with asyncio.timeout(gather_s):
                await self._all_ended.wait()
        # No await between these two lines: an event in between would be cleared unseen.
        reported, self._unreported = self._unreported, []
        self._has_event.clear()
        return reported

    async def abandon(self, first_call: int) -> None:
        """End all calls before this one, and drop their events."""
        # `max`, because two abandons may arrive in either order.
        self._first_call = max(self._first_call, first_call)
        for call in [call for call in self._following if call < first_call]:
            self._following.pop(call).cancel()
        self._unreported = [event for event in self._unreported if event.call >= first_call]

    async def load_weights(self, weights: Weights, limit_s: float) -> dict[int, str]:
        """Return why workers do not serve the version, by slot: they died, failed or were not done in time."""
        loading = {slot: worker.load_weights.remote(weights) for slot, worker in self._workers.items()}
        # Every worker counts as late until it answers: a stuck one never gives a reason itself.
        failures = dict.fromkeys(loading, f"not done within {limit_s:g} s")
        for slot, answer in (await _ended(loading, limit_s)).items():
            if error := answer.exception():
                failures[slot] = str(error) or type(error).__name__
            else:
                del failures[slot]
        return failures

    async def take_spans(self, limit_s: float) -> dict[int, tuple[Span, ...]]:
        """Return each worker's spans since the last call, by slot; workers that do not answer in time are left out."""
        asked = {slot: worker.take_spans.remote() for slot, worker in self._workers.items()}
        return {slot: answer.result() for slot, answer in (await _ended(asked, limit_s)).items() if not answer.exception()}

    async def _follow(self, message: CallMessage) -> None:
        stream = None
        try:
            stream = self._workers[message.slot].generate.remote(message.problems, message.sampling)
            async for part in stream:
                self._add(CallEvent(call=message.call, ended=await part))
        except asyncio.CancelledError:
            # The worker would go on to generate completions that nobody reads.
            if stream is not None:
                ray.cancel(stream)
        # Before RayError, its base class: an exception of a living worker is a refusal and no death.
        except RayTaskError as error:
            self._add(CallEvent(call=message.call, refusal=str(error.cause) or repr(error.cause)))
        except RayError as error:  # the worker died, whatever the cause
            self._add(CallEvent(call=message.call, death=str(error) or type(error).__name__))
        except Exception as error:  # the exception of a task that nobody awaits would be lost
            self._add(CallEvent(call=message.call, refusal=repr(error)))
        finally:
            self._following.pop(message.call, None)
        if not self._following:
            self._all_ended.set()

    def _add(self, event: CallEvent) -> None:
        self._unreported.append(event)
        self._has_event.set()


async def _ended(asked: "Mapping[int, ray.ObjectRef[Any]]", limit_s: float) -> "dict[int, asyncio.Future[Any]]":
    """Return the answers that came within the limit."""
    answers = {slot: ref.as_future() for slot, ref in asked.items()}
    await asyncio.wait(answers.values(), timeout=limit_s)
    return {slot: answer for slot, answer in answers.items() if answer.done()}
