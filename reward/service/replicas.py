"""Rewards that run in Ray actors: a class of the user's with resources of its own, or an actor that already runs."""

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from ovt_ray.core.config.run import RewardPart
from ovt_ray.core.errors import RewardError
from ovt_ray.core.types import Failure, Problem, Score
from reward.load import FILE_MODULE, NAMED_ACTOR, actor_class
from reward.protocol import Answer, Method, NoScoreError, as_score, as_scores, unscorable

START_DEADLINE_S = 600.0
"""Upper bound on the time to place and make a replica, the first time or again. A judge model takes minutes."""
SIGN_OF_LIFE_S = 10.0
"""Time in which a replica with a late async call must answer another call, or it is killed."""
CLOSE_DEADLINE_S = 10.0
"""Upper bound on the wait for a replica to close before it is killed."""
ASYNC_CONCURRENCY = 64
"""Calls in flight at a replica with async methods, unless the config says otherwise."""
MAX_TRIES = 2
"""Upper bound on the tries of an answer on which replicas die, as each may take minutes to come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """Actors that all run the same reward."""

    name: str
    method: Method
    actors: tuple[Any, ...]
    is_ours: bool
    """Whether the pool made the actors. If so, it replaces hanging actors and ends all actors."""
    concurrency: int
    """Upper bound on the calls in flight at each actor."""


def start_replicas(part: RewardPart) -> Replicas:
    """Return a part's actors once they answer. Raises RewardError that names the part if an actor cannot start."""
    if part.name.startswith(NAMED_ACTOR):
        return _running(part)
    found, options, method = actor_class(part.name, part.options)
    module = sys.modules[found.__ray_metadata__.modified_class.__module__]
    if module.__name__.startswith(FILE_MODULE):
        ray.cloudpickle.register_pickle_by_value(module)  # no Ray worker could import it by that name
    asked = {name: value for name, value in (("num_cpus", part.num_cpus), ("num_gpus", part.num_gpus)) if value is not None}
    # No retries by Ray: an answer that kills replicas would go beyond MAX_TRIES.
    made = found.options(max_restarts=-1, max_task_retries=0, **asked)
    # All are made before one is awaited: their models load side by side.
    actors = tuple(made.remote(**options) for _ in range(part.replicas))
    try:
        ray.get([actor.__ray_ready__.remote() for actor in actors], timeout=START_DEADLINE_S)
    except GetTimeoutError as error:
        raise RewardError(
            f"reward {part.name!r}: {part.replicas} replicas did not answer in {START_DEADLINE_S:g} s; `ray status` says what they wait for"
        ) from error
    except RayError as error:
        raise RewardError(f"reward {part.name!r}: its actor could not start: {error}") from error
    concurrency = part.concurrency or (ASYNC_CONCURRENCY if method.is_async else 1)
    return Replicas(name=part.name, method=method, actors=actors, is_ours=True, concurrency=concurrency)


def _running(part: RewardPart) -> Replicas:
    namespace, slash, name = part.name.removeprefix(NAMED_ACTOR).rpartition("/")
    try:
        actor = ray.get_actor(name, namespace=namespace if slash else None)
    except ValueError as error:
        raise RewardError(f"reward {part.name!r}: no such actor runs; start it, or give its namespace: actor:NAMESPACE/NAME") from error
    found = [method for method in ("score_batch", "__call__") if hasattr(actor, method)]
    if not found:
        raise RewardError(f"reward {part.name!r}: has neither __call__(problem, text) nor score_batch(problem, texts)")
    method = Method(name=found[0], is_async=False, takes_tokens=False)
    return Replicas(name=part.name, method=method, actors=(actor,), is_ours=False, concurrency=part.concurrency or 1)


def end_replicas(replicas: Replicas) -> None:
    """End the actors if the pool made them. Calls their `close()` first, if any, because an engine's processes outlive a killed actor."""
    if not replicas.is_ours:
        return
    closing = [actor.close.remote() for actor in replicas.actors if hasattr(actor, "close")]
    if closing:
        ray.wait(closing, num_returns=len(closing), timeout=CLOSE_DEADLINE_S)
    for actor in replicas.actors:
        ray.kill(actor)


class ReplicaCaller:
    """Calls replicas from an event loop, each call with a deadline and never more calls at once than the replicas take."""

    def __init__(self, replicas: Replicas, deadline_s: float) -> None:
        self._replicas = replicas
        self._deadline_s = deadline_s
        self._free: asyncio.Queue[Any] = asyncio.Queue()
        # An actor stands in the queue once per call that it takes, and first every actor once: calls spread over idle actors.
        for actor in replicas.actors * replicas.concurrency:
            self._free.put_nowait(actor)
        self._healing: set[asyncio.Task[None]] = set()

    async def score(self, problem: Problem, answers: Sequence[Answer]) -> list[Score]:
        """Return a score per answer, in order, even if replicas fail."""
        batches = [tuple(answers)] if self._replicas.method.is_batch else [(answer,) for answer in answers]
        return _flat(await asyncio.gather(*(self._score(problem, batch) for batch in batches if batch)))

    async def _score(self, problem: Problem, answers: tuple[Answer, ...]) -> list[Score]:
        """Return the scores of a call. If a batch fails, each of its answers is tried alone."""
        num_tries = MAX_TRIES if len(answers) == 1 else 1
        found = await self._ask(problem, answers)
        # Only a crash is tried again: another answer may have caused it. Late and raising calls fail by themselves.
        while isinstance(found, _Failed) and found.failure is Failure.CRASH and (num_tries := num_tries - 1):
            found = await self._ask(problem, answers)
        if not isinstance(found, _Failed):
            return found
        if len(answers) > 1:
            return _flat(await asyncio.gather(*(self._score(problem, (answer,)) for answer in answers)))
        where = f"reward {self._replicas.name} on problem {problem.id}, completion {answers[0].index}"
        return [unscorable(f"{where}: its actor {found.what}", found.failure)]

    async def _ask(self, problem: Problem, answers: tuple[Answer, ...]) -> "list[Score] | _Failed":
        """Return the scores by the next free replica, or its failure."""
        method = self._replicas.method
        actor = await self._free.get()
        ref = getattr(actor, method.name).remote(problem, *method.arguments(answers))
        try:
            returned = await asyncio.wait_for(ref, self._deadline_s)
            found = as_scores(returned, len(answers)) if method.is_batch else [as_score(returned)]
        # Before RayError, its base class: this actor lives, and is free.
        except RayTaskError as error:
            self._free.put_nowait(actor)
            return _Failed(Failure.ERROR, f"raised {type(error.cause).__name__}: {error.cause}")
        except TimeoutError:
            # Not free yet: the late call still runs there, and the next one would wait behind it.
            self._heal(actor, ref)
            return _Failed(Failure.DEADLINE, f"took longer than {self._deadline_s:g} s")
        except RayError as error:
            self._heal(actor, None)
            return _Failed(Failure.CRASH, f"died: {error}")
        except NoScoreError as error:
            self._free.put_nowait(actor)
            return _Failed(Failure.ERROR, str(error))
        self._free.put_nowait(actor)
        return found

    def _heal(self, actor: Any, late: "ray.ObjectRef[Any] | None") -> None:
        """Give a replica's place back once it answers. Kill it first if a late call holds it up."""
        task = asyncio.ensure_future(self._healed(actor, late))
        self._healing.add(task)  # the event loop keeps no strong reference: the task could vanish
        task.add_done_callback(self._healing.discard)

    async def _healed(self, actor: Any, late: "ray.ObjectRef[Any] | None") -> None:
        if not self._replicas.is_ours:
            await _answers(actor, self._deadline_s)  # give it a chance: the pool may not replace another's actor
        else:
            if late is not None and not await self._survives(actor, late):
                ray.kill(actor, no_restart=False)
            end = time.monotonic() + START_DEADLINE_S
            while not await _answers(actor, START_DEADLINE_S) and time.monotonic() < end:
                await asyncio.sleep(1)  # until Ray has begun to restart it, calls fail at once
        self._free.put_nowait(actor)

    async def _survives(self, actor: Any, late: "ray.ObjectRef[Any]") -> bool:
        """Return whether a late call could be ended without its actor. A coroutine can be cancelled unless it blocks its loop."""
        if not self._replicas.method.is_async:
            return False
        ray.cancel(late)
        return await _answers(actor, SIGN_OF_LIFE_S)


@dataclass(frozen=True, slots=True)
class _Failed:
    """The failure of a call that gave no scores."""

    failure: Failure
    what: str


async def _answers(actor: Any, limit_s: float) -> bool:
    try:
        await asyncio.wait_for(actor.__ray_ready__.remote(), limit_s)
    except (TimeoutError, RayError):
        return False
    return True


def _flat(rows: Sequence[Sequence[Score]]) -> list[Score]:
    return [score for row in rows for score in row]
