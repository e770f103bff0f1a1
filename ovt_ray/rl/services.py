"""Protocols of the services that the loop of GRPO uses. `ovt_ray.services.Services` and the fakes of tests implement them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ovt_ray.core.types import Problem, Sampling, ScoredGroup, TrainSample, UpdateStats
from ovt_ray.core.weights.transport import PublishedVersion


class GroupSource(Protocol):
    """Generates groups on the rollout workers and scores them. Each group has the number of its request."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being generated or waits to be."""

    def submit(self, problems: Sequence[Problem], sampling: Sampling, *, are_awaited: bool = False) -> Sequence[int]:
        """Take in problems, before all others if they are awaited; return the number of each problem's request."""

    def poll(self, timeout_s: float = math.inf) -> Sequence[int]:
        """Wait for groups until the timeout, and return the requests of all generated groups. Their scores may come later."""

    def are_scored(self, request: int) -> bool:
        """Return whether `scored` would not wait for a generated group."""

    def scored(self, request: int) -> ScoredGroup:
        """Return a generated group with its scores, once; wait for the scores if necessary."""

    def abandon(self) -> None:
        """Give up all that was submitted and not returned by `scored`."""

    def load_weights(self, published: PublishedVersion) -> None:
        """Return when every worker generates with this version of the weights; groups in work go on under them."""


class PolicyLearner(Protocol):
    """Trains the policy."""

    @property
    def version(self) -> int:
        """Version of the newest published weights."""

    def update(self, samples: Sequence[TrainSample]) -> UpdateStats:
        """Take one optimizer step on the samples."""

    def logprobs(self, samples: Sequence[TrainSample]) -> list[tuple[float, ...]]:
        """Return the policy's log-probability of each completion token of each sample."""

    def publish(self) -> PublishedVersion:
        """Return the policy's weights as the next version."""

    def save(self, folder: Path, step: int) -> None:
        """Write a checkpoint from which the stage can go on with the step."""


class GrpoServices(Protocol):
    """The source of groups and the learner."""

    @property
    def groups(self) -> GroupSource:
        """The source of scored groups."""

    @property
    def learner(self) -> PolicyLearner:
        """The learner of the policy."""
