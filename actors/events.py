"""Events of the rollout pool, which `RolloutPool.poll` returns. All completions of a group are reported before the group."""

from dataclasses import dataclass
from typing import TypeAlias

from actors.worker import Ended
from ovt_ray.core.types import Problem, RolloutGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionsEnded:
    """Some completions of a problem ended, close to each other.

    A worker that dies loses its unfinished groups. They are generated again, and all their completions are reported again.
    """

    request: int
    """Number that `RolloutPool.submit` gave to the problem."""
    problem: Problem
    ended: tuple[Ended, ...]
    """In the order of their indices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFinished:
    """The last completion of a problem ended; all of them were reported before."""

    request: int
    """Number that `RolloutPool.submit` gave to the problem."""
    group: RolloutGroup


PoolEvent: TypeAlias = CompletionsEnded | GroupFinished
