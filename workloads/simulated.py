"""Rollout workers without an engine. Each completion takes a random, long-tailed time, and many workers run in a process.

`SimulatedWorker` is a `RolloutWorker` without the engine, so that calls, streams and messages are real.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.placed import PlacedWorker, Worker, into, placement
from actors.worker import Ended, RolloutWorker, completion_seed
from ovt_ray.core.config.run import RolloutConfig
from ovt_ray.core.spans import SpanLog
from ovt_ray.core.types import Completion, Problem, Sampling, VersionSpan
from ovt_ray.core.weights.version import Weights

SIGMA = 1.0
"""Standard deviation of the logarithm of an answer's length."""
LONGEST_OVER_MEAN = 4
"""Upper bound on an answer's length over the mean length. Longer answers, 3.6 % of all, are cut."""
MEDIAN_OVER_MEAN = 0.66166
"""Median of the uncut length over the mean length, which follows from the two."""
PROMPT_IDS = tuple(range(1000, 1024))
LONGEST = 4096
TOKEN_IDS = tuple(range(1000, 1000 + LONGEST))
LOGPROBS = tuple(-0.37 - 1e-4 * place for place in range(LONGEST))
TEXT = "word " * LONGEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The speed of simulated engines."""

    num_slots: int
    """Number of completions that an engine generates at the same time. Further completions wait."""
    mean_tokens: float
    """Mean token count of a completion."""
    token_s: float
    """Seconds per token of a completion."""


class SimulatedWorker(RolloutWorker):
    """A worker whose engine has slots; a completion takes its time in one of them."""

    def __init__(self, speed: Speed) -> None:
        self._speed = speed
        self._slots = asyncio.Semaphore(speed.num_slots)
        self._version = 0
        self._ended_s = 0.0
        self._begun: dict[object, float] = {}
        """Start of the completion in each busy slot."""
        self._num_calls = 0
        self._is_loading = False
        self._spans = SpanLog()

    async def ready(self) -> int:
        """Return the process id."""
        return os.getpid()

    async def load_weights(self, weights: Weights) -> int:
        """Return the version, which is the version of all completions that begin from now on."""
        self._version = weights.version
        return weights.version

    async def weight_checksums(self) -> dict[str, str]:
        """Return the version that is served."""
        return {"version": str(self._version)}

    async def close(self) -> None:
        """Do nothing: there is no engine."""

    async def busy_s(self) -> float:
        """Return the sum over all slots of the time spent on completions."""
        now = time.monotonic()
        return self._ended_s + sum(now - began for began in self._begun.values())

    async def _answer(self, problem: Problem, sampling: Sampling, ended: "asyncio.Queue[Ended | Exception]") -> None:
        await asyncio.gather(*(self._complete(problem, sampling, index, ended) for index in range(sampling.num_completions)))

    async def _complete(self, problem: Problem, sampling: Sampling, index: int, ended: "asyncio.Queue[Ended | Exception]") -> None:
        num_tokens = min(max(1, self._length(problem, sampling, index)), sampling.max_tokens)
        async with self._slots:
            version, me = self._version, object()
            self._begun[me] = time.monotonic()
            try:
                await asyncio.sleep(num_tokens * self._speed.token_s)
            finally:
                self._ended_s += time.monotonic() - self._begun.pop(me)
        completion = Completion(
            token_ids=TOKEN_IDS[:num_tokens],
            rollout_logprobs=LOGPROBS[:num_tokens],
            text=TEXT[: 4 * num_tokens],
            finish_reason="length" if num_tokens == sampling.max_tokens else "stop",
            versions=(VersionSpan(version=version, num_tokens=num_tokens),),
        )
        ended.put_nowait(Ended(problem_id=problem.id, prompt_ids=PROMPT_IDS, index=index, completion=completion))

    def _length(self, problem: Problem, sampling: Sampling, index: int) -> int:
        """Return the token count of a completion, which depends only on the seed, the problem and the index."""
        draw = random.Random(completion_seed(sampling.seed, problem.id) + index)
        return round(MEDIAN_OVER_MEAN * self._speed.mean_tokens * draw.lognormvariate(0, SIGMA))


class Host:
    """A process of simulated workers. It makes a worker at its first call."""

    def __init__(self, speed: Speed) -> None:
        self._speed = speed
        self._workers: dict[int, SimulatedWorker] = {}

    def _worker(self, number: int) -> SimulatedWorker:
        if number not in self._workers:
            self._workers[number] = SimulatedWorker(self._speed)
        return self._workers[number]

    async def call(self, number: int, verb: str, *arguments: Any) -> Any:
        """Return a worker's answer to a call."""
        return await getattr(self._worker(number), verb)(*arguments)

    async def generate(self, number: int, problems: Sequence[Problem], sampling: Sampling) -> AsyncIterator[list[Ended]]:
        """Yield the completions of a worker."""
        async for part in self._worker(number).generate(problems, sampling):
            yield part

    async def busy_s(self) -> float:
        """Return the sum over all workers' slots of their busy time."""
        return sum([await worker.busy_s() for worker in self._workers.values()])


@dataclass(frozen=True, slots=True)
class _Method:
    """A remote method of a host's worker."""

    method: Any
    leading: tuple[Any, ...]

    def remote(self, *arguments: Any) -> Any:
        return self.method.remote(*self.leading, *arguments)


@dataclass(frozen=True, slots=True, eq=False)
class Hosted:
    """Stands for the actor of a simulated worker."""

    host: ActorHandle
    number: int

    @property
    def generate(self) -> _Method:
        return _Method(self.host.generate, (self.number,))

    @property
    def ready(self) -> _Method:
        return _Method(self.host.call, (self.number, "ready"))

    @property
    def load_weights(self) -> _Method:
        return _Method(self.host.call, (self.number, "load_weights"))

    @property
    def take_spans(self) -> _Method:
        return _Method(self.host.call, (self.number, "take_spans"))

    @property
    def weight_checksums(self) -> _Method:
        return _Method(self.host.call, (self.number, "weight_checksums"))

    @property
    def close(self) -> _Method:
        return _Method(self.host.call, (self.number, "close"))


@dataclass(frozen=True, slots=True)
class HostedWorker:
    """A simulated worker, which shares its process and thus cannot be ended alone."""

    actor: Hosted

    def end(self) -> None:
        """Do nothing: the worker is not called again."""


class HostedLauncher:
    """Starts simulated workers that live in a few processes, which `close` ends."""

    def __init__(self, speed: Speed, num_hosts: int) -> None:
        self._speed = speed
        self._numbers_of_workers = count()
        self.hosts = [self.new_host() for _ in range(num_hosts)]

    def new_host(self) -> ActorHandle:
        """Return a process for simulated workers."""
        return ray.remote(num_cpus=0, max_concurrency=100_000)(Host).remote(self._speed)

    def launch(self, config: RolloutConfig) -> Worker:
        """Return a worker in the next of the processes."""
        number = next(self._numbers_of_workers)
        return HostedWorker(Hosted(self.hosts[number % len(self.hosts)], number))

    def busy_s(self) -> float:
        """Return the time that all slots of all workers were busy."""
        return sum(ray.get([host.busy_s.remote() for host in self.hosts]))

    def close(self) -> None:
        """End the processes."""
        for host in self.hosts:
            ray.kill(host)


class PlacedLauncher:
    """Starts simulated workers that, like real workers, have an actor and a placement each."""

    def __init__(self, speed: Speed) -> None:
        self._speed = speed
        self._actors: list[ActorHandle] = []

    def launch(self, config: RolloutConfig) -> Worker:
        """Return a worker in a process of its own."""
        group = placement(config)
        remote = ray.remote(num_cpus=config.cpus_per_worker, max_concurrency=1000, scheduling_strategy=into(group))(SimulatedWorker)
        self._actors.append(remote.remote(self._speed))
        return PlacedWorker(self._actors[-1], group)

    def busy_s(self) -> float:
        """Return the time that all slots of all workers were busy."""
        return sum(ray.get([actor.busy_s.remote() for actor in self._actors]))

    def close(self) -> None:
        """Leave them: the pool ends each."""
