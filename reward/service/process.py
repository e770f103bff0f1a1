"""The process in which rewards run: `python -m reward.service.process FD PARENT_PID`, started by `reward.service.worker`.

It imports the rewards, and nothing heavy of this project, and reports that. Then it scores the answers that it receives until its owner
closes the channel or dies.
"""

import asyncio
import ctypes
import importlib
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ovt_ray.core.errors import RewardError
from ovt_ray.core.types import Failure, Problem, Score
from reward.load import Reward, load_reward
from reward.protocol import Answer, NoScoreError, Part, as_score, as_scores, unscorable
from reward.service.channel import receive, send

EXIT_OUT_OF_MEMORY = 101
_PR_SET_PDEATHSIG = 1
_MAX_MESSAGE_CHARS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """First message in: the rewards to load."""

    parts: tuple[Part, ...]
    memory_bytes: int
    """Upper bound on writable private memory. Merely reserved address space, as CUDA reserves it, does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """First message out, unless it is the text of a refusal."""

    one_by_one: frozenset[int]
    """Parts that score the answers one by one, in order. The other parts follow and score all answers at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Answers to score."""

    problem: Problem
    answers: tuple[Answer, ...]
    deadline_s: float
    """Upper bound on the seconds of an `async` reward. The owner's clock bounds all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The score of an answer of the job by one part, sent as soon as it is known."""

    position: int
    """Position of the answer in the job."""
    part: int
    """Position of the part in the load request."""
    score: Score


def main(fd: int, parent: int) -> None:
    """Serve the channel until its other end is closed.

    A LoadRequest comes in, and Loaded or a refusal goes out. Then a Job comes in and its Results go out, again and again.
    """
    # First: whatever a reward does from here on, this process does not outlive its owner.
    _die_with(parent)
    channel = socket.socket(fileno=fd)
    channel.set_inheritable(False)  # a child of a reward that kept the channel open would hide the end of this process
    try:
        request: LoadRequest = receive(channel)
        # Before the rewards load, as their imports may already need too much.
        resource.setrlimit(resource.RLIMIT_DATA, (request.memory_bytes, request.memory_bytes))
        try:
            rewards = [load_reward(part.name, part.options) for part in request.parts]
        except RewardError as error:
            send(channel, str(error))
            return
        if "reward.verifier.symbolic" in sys.modules:  # before the first deadline runs; rewards without algebra do not pay for it
            load_algebra = importlib.import_module("reward.verifier.symbolic").load_algebra
            load_algebra()
        send(channel, Loaded(one_by_one=frozenset(part for part, reward in enumerate(rewards) if _is_one_by_one(reward))))
        # One loop for all jobs: a reward may keep connections, which belong to a loop.
        loop = asyncio.new_event_loop()
        while True:
            loop.run_until_complete(_serve(rewards, receive(channel), lambda result: send(channel, result)))
    except (EOFError, OSError):
        return  # the owner closed the channel, or died


def _is_one_by_one(reward: Reward) -> bool:
    return not (reward.method.is_async or reward.method.is_batch)


async def _serve(rewards: Sequence[Reward], job: Job, reply: Callable[[Result], None]) -> None:
    """Send a reply for each answer and part."""

    async def run(part: int, positions: Sequence[int]) -> None:
        answers = tuple(job.answers[position] for position in positions)
        scores = await _scores(rewards[part], job.problem, answers, job.deadline_s)
        if len(positions) > 1 and scores[0].failure is Failure.ERROR:
            for position in positions:  # an answer made the whole batch fail: scoring each alone shows which
                await run(part, [position])
            return
        for position, score in zip(positions, scores, strict=True):
            reply(Result(position=position, part=part, score=score))

    everything = range(len(job.answers))
    one_by_one = [part for part, reward in enumerate(rewards) if _is_one_by_one(reward)]
    # One at a time, before all others: if the process dies, the first missing result names the guilty answer.
    for position in everything:
        for part in one_by_one:
            await run(part, [position])
    at_once = [
        run(part, positions)
        for part, reward in enumerate(rewards)
        if part not in one_by_one
        for positions in ([everything] if reward.method.is_batch else [[position] for position in everything])
    ]
    await asyncio.gather(*at_once)


async def _scores(reward: Reward, problem: Problem, answers: tuple[Answer, ...], deadline_s: float) -> list[Score]:
    """Return the reward's scores of answers in one call. If the call fails, return unscorable scores with its failure."""
    limit = asyncio.timeout(deadline_s)
    try:
        returned = reward.call(problem, *reward.method.arguments(answers))
        if reward.method.is_async:
            async with limit:
                returned = await returned
        return as_scores(returned, len(answers)) if reward.method.is_batch else [as_score(returned)]
    except MemoryError:
        os._exit(EXIT_OUT_OF_MEMORY)  # the reward may still hold the memory: the owner starts a new process
    except Exception as error:
        late = reward.method.is_async and limit.expired()
        what = f"took longer than {deadline_s:g} s" if late else _raised(error)
        failure = Failure.DEADLINE if late else Failure.ERROR
        return [unscorable(f"reward {reward.name} on problem {problem.id}, completion {a.index}: it {what}", failure) for a in answers]


def _raised(error: Exception) -> str:
    """Return the reward's failure as the rest of a sentence."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, NoScoreError):
        return str(error)
    what = f"{type(error).__name__}: {error}"[:_MAX_MESSAGE_CHARS]
    return f"raised {what} ({where.filename}:{where.lineno})"


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the parent's thread that started it ends, even while a reward hangs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the request to the kernel, which therefore sends no signal
        sys.exit("the process that started this one is gone")


if __name__ == "__main__":
    # Imported under its own name, so that both ends of the channel use the same classes.
    from reward.service.process import main as run

    run(int(sys.argv[1]), int(sys.argv[2]))
