"""The three services of a run, on one Ray cluster: started together, closed together."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayError

from actors.pool import RolloutPool
from learner.group import LearnerGroup
from ovt_ray.config import RunConfig
from ovt_ray.errors import ConfigError
from ovt_ray.types import Completion, Problem, RolloutGroup, Sampling, Score, ScoredGroup
from reward.pool import CPUS_PER_ACTOR, RewardPool
from reward.protocol import Answer

Scoring: TypeAlias = "ray.ObjectRef[tuple[Score, ...]]"
"""What the reward pool gives for one completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingGroup:
    """A finished group, and what the reward pool gives its scores for."""

    group: RolloutGroup
    scoring: tuple[Scoring, ...]
    """(G,)"""


class Services:
    """Rollout pool, reward pool and learner group; closing it leaves no process behind."""

    def __init__(self, config: RunConfig, engine_model: str) -> None:
        """Start every service and wait until the engines, which take longest, answer with the weights of `engine_model`."""
        with ExitStack() as started:
            started.enter_context(cluster(config))
            self._config = config
            self._engine_model = engine_model
            self._rollout: RolloutPool | None = None
            started.callback(self.end_rollout, engine_model)
            self.start_rollout()
            self.learner = LearnerGroup(config.learner, config.model, config.seed)
            started.callback(self.learner.close)
            self.reward = RewardPool(config.reward)
            started.callback(self.reward.close)
            self.rollout.wait_until_ready()
            self._started = started.pop_all()

    def __enter__(self) -> "Services":
        return self

    def __exit__(self, *error: object) -> None:
        self._started.close()

    @property
    def rollout(self) -> RolloutPool:
        """The policy's workers, started if none are there."""
        return self._rollout or self.start_rollout()

    def start_rollout(self) -> RolloutPool:
        """Return the policy's workers, which start in the background."""
        self._rollout = RolloutPool(self._config.rollout, self._config.model, self._engine_model)
        return self._rollout

    def end_rollout(self, next_model: str) -> None:
        """Close the policy's workers, whose place other models may then have; the next ones start with `next_model`."""
        self._engine_model = next_model
        if self._rollout is not None:
            self._rollout.close()
            self._rollout = None

    def submit(self, problems: Sequence[Problem], sampling: Sampling, on_group: Callable[[PendingGroup], None]) -> None:
        """Take in problems to answer; `on_group` hears of each group as it finishes, while `rollout.poll` is being called.

        Each completion is on its way to the reward as soon as it ends.
        """
        scoring: dict[tuple[str, int], Scoring] = {}

        def score(problem: Problem, index: int, completion: Completion) -> None:
            answer = Answer(index=index, text=completion.text, num_tokens=len(completion.token_ids))
            if (outdated := scoring.pop((problem.id, index), None)) is not None:
                self.reward.discard(outdated)  # the worker died, and the group is generated again
            scoring[problem.id, index] = self.reward.submit(problem, [answer])

        def finish(group: RolloutGroup) -> None:
            indices = range(sampling.num_completions)
            on_group(PendingGroup(group=group, scoring=tuple(scoring.pop((group.problem.id, index)) for index in indices)))

        self.rollout.submit(problems, sampling, finish, score)

    def scores(self, pending: Sequence[PendingGroup]) -> list[ScoredGroup]:
        """Return the groups with their scores, waiting for those that are not scored yet."""
        return [self._scored(group) for group in pending]

    def are_scored(self, pending: PendingGroup) -> bool:
        """Return whether `scores` would not wait for the group."""
        return self.reward.are_ready(pending.scoring)

    def answers(self, problems: Sequence[Problem], sampling: Sampling) -> Iterator[ScoredGroup]:
        """Yield each problem's group once it is finished and scored, in any order."""
        waiting: deque[PendingGroup] = deque()
        try:
            self.submit(problems, sampling, waiting.append)
            while not self.rollout.is_idle:
                self.rollout.poll()
                while waiting and self.are_scored(waiting[0]):
                    yield self._scored(waiting.popleft())
        finally:
            self.rollout.abandon()
        yield from map(self._scored, waiting)

    def _scored(self, pending: PendingGroup) -> ScoredGroup:
        return ScoredGroup(group=pending.group, scores=tuple(score for one in pending.scoring for score in self.reward.collect(one)))


def cpus_needed(config: RunConfig) -> float:
    """Return the logical CPUs that all services of a run ask of Ray."""
    rollout = config.rollout.num_workers * config.rollout.cpus_per_worker
    learner = config.learner.num_ranks * config.learner.cpus_per_rank
    replicas = sum(part.replicas * (part.num_cpus or 0) for part in config.reward.parts)
    return rollout + learner + config.reward.num_actors * CPUS_PER_ACTOR + replicas


def gpus_needed(config: RunConfig) -> float:
    """Return the GPUs that all services of a run ask of Ray; what only a reward's own decorator asks for is not known here."""
    replicas = sum(part.replicas * (part.num_gpus or 0) for part in config.reward.parts)
    return config.rollout.num_workers * config.rollout.gpus_per_worker + config.learner.num_ranks * config.learner.gpus_per_rank + replicas


@contextmanager
def cluster(config: RunConfig) -> Iterator[None]:
    """Connect to a cluster as `connect` does; one that was started ends with the block."""
    starts = connect(config)
    try:
        yield
    finally:
        if starts:
            ray.shutdown()


def connect(config: RunConfig) -> bool:
    """Connect to the cluster named by RAY_ADDRESS, else start one in this machine; return whether it was started.

    Raises ConfigError naming what is asked for and what the cluster has when they do not fit.
    """
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    starts = "RAY_ADDRESS" not in os.environ
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if starts:
        num_cpus = max(os.cpu_count() or 1, int(cpus_needed(config)) + 1)
        ray.init("local", num_cpus=num_cpus, include_dashboard=False, **quiet)
    else:
        _join(os.environ["RAY_ADDRESS"], quiet)
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own in place, which ends the driver before services are closed
    wanted = {"CPU": cpus_needed(config), "GPU": gpus_needed(config)}
    present = ray.cluster_resources()
    for name, amount in wanted.items():
        if amount > present.get(name, 0):
            raise ConfigError(
                f"rollout.num_workers, learner.num_ranks: together they ask for {amount:g} {name}, the cluster has "
                f"{present.get(name, 0):g}: lower them, their {name.lower()}s_per_worker or _per_rank, or add nodes"
            )
    return starts


def _join(address: str, quiet: dict[str, Any]) -> None:
    try:
        ray.init(**quiet)
    except (ConnectionError, RayError, RuntimeError) as error:
        raise ConfigError(
            f"RAY_ADDRESS={address}: no cluster answers there ({str(error).splitlines()[0]}); start one, correct the address, or unset it. "
            "A cluster that asks for a token needs RAY_AUTH_MODE=token"
        ) from error
