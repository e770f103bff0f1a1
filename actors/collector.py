"""Between the pool and its workers: calls them, and gathers what they bring, so that the driver is told of it in batches.

A call of Ray and a part of a stream each take a process several tenths of a millisecond, whoever is at the other end. Here that is paid by
the collector; the driver pays for a batch.
"""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.worker import Ended
from ovt_ray.core.spans import Span
from ovt_ray.core.types import Problem, Sampling
from ovt_ray.core.weights.version import Weights

NEWS_S = 1.0
"""Longest wait for news: an answer without any says that there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A call to a worker."""

    call: int
    """Names it in the news."""
    seat: int
    """Place in the pool of the worker that is called."""
    problems: tuple[Problem, ...]
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What became of a call: some completions have ended, or it failed."""

    call: int
    ended: Sequence[Ended] = ()
    refusal: str = ""
    """Why the engine refuses a problem; empty if it does not."""
    death: str = ""
    """What the worker died of; empty while it lives."""


class Collector:
    """Calls workers, and tells what comes back to whoever asks for news."""

    def __init__(self, gather_s: float) -> None:
        """`gather_s` is how long news wait for others to be told with."""
        self._gather_s = gather_s
        self._workers: dict[int, Any] = {}
        """Actor handles by seat."""
        self._following: dict[int, asyncio.Task[None]] = {}
        """Calls that have not ended."""
        self._first_call = 0
        """Calls before it are abandoned: one may be asked for late, as Ray does not promise that messages arrive in order."""
        self._untold: list[News] = []
        self._has_news = asyncio.Event()
        self._all_ended = asyncio.Event()

    async def seat(self, workers: dict[int, Any]) -> None:
        """Take workers to call, by seat, in place of those that had the seats."""
        self._workers |= workers

    async def ask(self, orders: Sequence[Order]) -> None:
        """Call workers; `news` tells what they answer."""
        for order in orders:
            self._all_ended.clear()
            if order.call >= self._first_call:
                self._following[order.call] = asyncio.create_task(self._follow(order))

    async def news(self, orders: Sequence[Order]) -> list[News]:
        """Call workers, and return what has come and is not told yet; waits for the first of it, and a little while more can come."""
        await self.ask(orders)
        with suppress(TimeoutError):
            async with asyncio.timeout(NEWS_S):
                await self._has_news.wait()
            async with asyncio.timeout(self._gather_s):
                await self._all_ended.wait()
        told, self._untold = self._untold, []
        self._has_news.clear()
        return told

    async def abandon(self, first_call: int) -> None:
        """End all calls before this one, and forget what came of them."""
        self._first_call = max(self._first_call, first_call)
        for call in [call for call in self._following if call < first_call]:
            self._following.pop(call).cancel()
        self._untold = [news for news in self._untold if news.call >= first_call]

    async def load_weights(self, weights: Weights, limit_s: float) -> dict[int, str]:
        """Return why workers do not serve the version, by seat: they died, failed or were not done in time."""
        loading = {seat: worker.load_weights.remote(weights) for seat, worker in self._workers.items()}
        failures = dict.fromkeys(loading, f"not done within {limit_s:g} s")
        for seat, answer in (await _ended(loading, limit_s)).items():
            if error := answer.exception():
                failures[seat] = str(error) or type(error).__name__
            else:
                del failures[seat]
        return failures

    async def take_spans(self, limit_s: float) -> dict[int, tuple[Span, ...]]:
        """Return what workers did since they were last asked, by seat; nothing of those that do not answer in time."""
        asked = {seat: worker.take_spans.remote() for seat, worker in self._workers.items()}
        return {seat: answer.result() for seat, answer in (await _ended(asked, limit_s)).items() if not answer.exception()}

    async def _follow(self, order: Order) -> None:
        stream = None
        try:
            stream = self._workers[order.seat].generate.remote(order.problems, order.sampling)
            async for part in stream:
                self._tell(News(call=order.call, ended=await part))
        except asyncio.CancelledError:
            if stream is not None:
                ray.cancel(stream)
        except RayTaskError as error:
            self._tell(News(call=order.call, refusal=str(error.cause) or repr(error.cause)))
        except RayError as error:  # the worker died, whatever of
            self._tell(News(call=order.call, death=str(error) or type(error).__name__))
        except Exception as error:  # nobody else would hear of it
            self._tell(News(call=order.call, refusal=repr(error)))
        finally:
            self._following.pop(order.call, None)
        if not self._following:
            self._all_ended.set()

    def _tell(self, news: News) -> None:
        self._untold.append(news)
        self._has_news.set()


async def _ended(asked: "Mapping[int, ray.ObjectRef[Any]]", limit_s: float) -> "dict[int, asyncio.Future[Any]]":
    """Return what ended within the limit."""
    answers = {seat: ref.as_future() for seat, ref in asked.items()}
    await asyncio.wait(answers.values(), timeout=limit_s)
    return {seat: answer for seat, answer in answers.items() if answer.done()}


class Line:
    """The driver's end: a collector, and the call that brings its news."""

    def __init__(self, gather_s: float) -> None:
        self._gather_s = gather_s
        self.heard_at = -math.inf
        """When the news was asked for that came last: what happened before that is known."""
        self.open()

    def open(self) -> None:
        """Start a collector, in place of one that died."""
        # In the driver's own node, and on no CPU of its own.
        node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.collector = ray.remote(num_cpus=0, scheduling_strategy=node)(Collector).remote(self._gather_s)
        self._seated: list[ray.ObjectRef[None]] = []
        self._orders: list[Order] = []
        self._is_listening = False
        self.listen()

    def seat(self, workers: dict[int, Any]) -> None:
        """Give the collector workers to call, by seat."""
        self._seated.append(self.collector.seat.remote(workers))

    def ask(self, orders: Sequence[Order]) -> None:
        """Have workers called that were given a seat before: at once, or with the next `listen` while no news is asked for."""
        self._wait_until_seated()
        if self._is_listening:
            self.collector.ask.remote(orders)
        else:
            self._orders.extend(orders)

    def load_weights(self, weights: Weights, limit_s: float) -> "ray.ObjectRef[dict[int, str]]":
        """Have all workers load weights; what comes says why which did not."""
        self._wait_until_seated()
        return self.collector.load_weights.remote(weights, limit_s)

    def take_spans(self, limit_s: float) -> "ray.ObjectRef[dict[int, tuple[Span, ...]]]":
        """Ask all workers what they did since they were last asked."""
        return self.collector.take_spans.remote(limit_s)

    def _wait_until_seated(self) -> None:
        if self._seated:  # Ray does not promise that messages arrive in order
            ray.wait(self._seated, num_returns=len(self._seated))
            self._seated.clear()

    def listen(self) -> None:
        """Ask for news, unless that is done: a call that has its cost, and so carries what workers are asked as well."""
        if not self._is_listening:
            self._is_listening = True
            self.asked_at = time.monotonic()
            self.news: ray.ObjectRef[list[News]] = self.collector.news.remote(self._orders)
            self._orders = []

    def hear(self) -> list[News]:
        """Return the news; `listen` has to be called again. Raises RayError if the collector died."""
        told = ray.get(self.news)
        self.heard_at, self.asked_at = self.asked_at, math.inf
        self._is_listening = False
        return told
