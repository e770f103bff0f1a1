"""The three services of a run, on one Ray cluster: started together, closed together."""

import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import ray
from ray.exceptions import RayError

from actors.pool import RolloutPool
from learner.group import LearnerGroup
from ovt_ray.config import RunConfig
from ovt_ray.errors import ConfigError
from ovt_ray.types import Problem, RolloutGroup, Sampling, Score, ScoredGroup
from reward.pool import CPUS_PER_ACTOR, RewardPool

PendingGroup = tuple[RolloutGroup, "ray.ObjectRef[tuple[Score, ...]]"]
"""A group and the reference to its scores, for `Services.scores`."""


class Services:
    """Rollout pool, reward pool and learner group; closing it leaves no process behind."""

    def __init__(self, config: RunConfig, engine_model: str) -> None:
        """Start every service and wait until the engines, which take longest, answer with the weights of `engine_model`."""
        with ExitStack() as started:
            if connect(config):
                started.callback(ray.shutdown)
            self.rollout = RolloutPool(config.rollout, config.model, engine_model)
            started.callback(self.rollout.close)
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

    def generate(self, problems: Sequence[Problem], sampling: Sampling) -> "list[PendingGroup]":
        """Return the groups in the order of the problems; each has been on its way to the reward since it was finished."""
        pending = {group.problem.id: (group, self.reward.submit(group)) for group in self.rollout.generate(problems, sampling)}
        return [pending[problem.id] for problem in problems]

    def scores(self, pending: "Sequence[PendingGroup]") -> list[ScoredGroup]:
        """Return the groups with their scores, waiting for those that are not scored yet."""
        return [ScoredGroup(group=group, scores=self.reward.collect(scoring)) for group, scoring in pending]


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
