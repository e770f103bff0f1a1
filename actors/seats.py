"""What the rollout pool knows of its workers and of what they were asked."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from actors.collector import Line
from actors.placed import Worker
from actors.worker import Ended
from ovt_ray.core.types import Problem, RolloutGroup, Sampling

OnCompletions = Callable[[Problem, Sequence[Ended]], None]
"""Told of the completions of a problem as they end, those that end close together at once."""
OnGroup = Callable[[RolloutGroup], None]
"""Told of each group when its last completion has ended."""


@dataclass(eq=False, kw_only=True)
class Seat:
    """One worker's place in the pool; the worker in it may be replaced."""

    number: int
    worker: Worker
    line: Line
    joins_by: float = math.inf
    """When a successor has to serve the current weights, on the clock of `time.monotonic`."""
    is_behind: bool = False
    """Whether it has no work until the next weights, as the current ones were broadcast before it was there and are not to be had again."""
    tokens_in_flight: int = 0
    calls: "dict[int, Call]" = field(default_factory=dict)
    """Those that are not finished."""


@dataclass(eq=False, kw_only=True)
class Request:
    """A problem that waits for a worker, or is on its way through one, and what has come back of it."""

    problem: Problem
    sampling: Sampling
    on_group: OnGroup
    on_completions: OnCompletions
    num_lost: int = 0
    """Workers that died while they had it."""
    due_at: float = math.inf
    """On the clock of `time.monotonic`, once a worker has it."""
    ended: list[Ended] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Tokens that all completions may take."""
        return self.sampling.num_completions * self.sampling.max_tokens

    def group(self) -> RolloutGroup:
        """Return the group of all that came back, in the order of the indices."""
        completions = tuple(one.completion for one in sorted(self.ended, key=lambda one: one.index))
        return RolloutGroup(problem=self.problem, prompt_ids=self.ended[0].prompt_ids, completions=completions)


@dataclass(eq=False)
class Call:
    """A call to a worker."""

    seat: Seat
    requests: dict[str, Request]
    """Those that are not finished, by the id of their problem."""
