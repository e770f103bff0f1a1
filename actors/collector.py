"""Between the pool and its workers: calls them, and gathers what they bring, so that the driver is told of it in batches.

A call of Ray and a part of a stream each take a process several tenths of a millisecond, whoever is at the other end. Here that is paid by
the collector; the driver pays for a batch.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.worker import Ended
from ovt_ray.types import Problem, Sampling

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
        self._streams: dict[int, ray.ObjectRefGenerator] = {}
        """What calls that have not ended bring, by call."""
        self._following: set[asyncio.Task[None]] = set()
        self._untold: list[News] = []
        self._has_news = asyncio.Event()
        self._all_ended = asyncio.Event()

    async def seat(self, workers: dict[int, Any]) -> None:
        """Take workers to call, by seat, in place of those that had the seats."""
        self._workers |= workers

    async def ask(self, orders: Sequence[Order]) -> None:
        """Call workers; `news` tells what they answer."""
        self._all_ended.clear()
        for order in orders:
            self._streams[order.call] = self._workers[order.seat].generate.remote(order.problems, order.sampling)
            task = asyncio.create_task(self._follow(order.call))
            self._following.add(task)
            task.add_done_callback(self._following.discard)

    async def news(self) -> list[News]:
        """Return what has come and is not told yet; waits for the first of it, and a little for more while more can come."""
        with suppress(TimeoutError):
            async with asyncio.timeout(NEWS_S):
                await self._has_news.wait()
            async with asyncio.timeout(self._gather_s):
                await self._all_ended.wait()
        told, self._untold = self._untold, []
        self._has_news.clear()
        return told

    async def abandon(self) -> None:
        """End all calls, and forget what came of them."""
        for task in self._following:
            task.cancel()
        for stream in self._streams.values():
            ray.cancel(stream)
        self._streams.clear()
        self._untold.clear()
        self._has_news.clear()

    async def _follow(self, call: int) -> None:
        try:
            async for part in self._streams[call]:
                self._tell(News(call=call, ended=await part))
        except RayTaskError as error:
            self._tell(News(call=call, refusal=str(error.cause)))
        except RayError as error:  # the worker died, whatever of
            self._tell(News(call=call, death=str(error) or type(error).__name__))
        self._streams.pop(call, None)
        if not self._streams:
            self._all_ended.set()

    def _tell(self, news: News) -> None:
        self._untold.append(news)
        self._has_news.set()


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
        self.listen()

    def listen(self) -> None:
        """Ask for news."""
        self.asked_at = time.monotonic()
        self.news: ray.ObjectRef[list[News]] = self.collector.news.remote()

    def hear(self) -> list[News]:
        """Return the news and ask for more, which gather meanwhile. Raises RayError if the collector died."""
        told = ray.get(self.news)
        self.heard_at = self.asked_at
        self.listen()
        return told
