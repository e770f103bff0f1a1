"""A rollout worker's place in the pool."""

import math
from dataclasses import dataclass, field

from actors.channel import Channel
from actors.placed import Worker


@dataclass(eq=False, kw_only=True)
class WorkerSlot:
    """One worker's place in the pool; the worker in it may be replaced."""

    number: int
    worker: Worker
    channel: Channel
    is_joining: bool = False
    """Whether its worker is a successor that does not serve the current weights yet."""
    joins_by: float = math.inf
    """Time by which a successor has to serve the current weights, on the clock of `time.monotonic`."""
    is_behind: bool = False
    """Whether it has no work until the next weights, as the current ones were broadcast before it was there and are not to be had again."""
    tokens_in_flight: int = 0
    calls: set[int] = field(default_factory=set)
    """Numbers of its worker's unfinished calls."""

    @property
    def takes_work(self) -> bool:
        """Whether its worker serves the current weights."""
        return not self.is_joining and not self.is_behind
