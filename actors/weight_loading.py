"""How a published version of the weights is loaded into every worker of a crew."""

import logging
import time
from itertools import count
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from actors.channel import Channel
from actors.crew import Crew
from actors.deadlines import Deadlines
from ovt_ray.core.errors import RolloutError
from ovt_ray.core.weights.meeting import Meeting
from ovt_ray.core.weights.transport import PublishedVersion
from ovt_ray.core.weights.version import Weights

logger = logging.getLogger(__name__)

ANSWER_S = 10.0
"""Time for a collector to report, after a deadline, which workers were not done."""


class WeightLoading:
    """The workers of a crew, as a transport of weights sees them; workers that die or fail in a load are replaced."""

    def __init__(self, crew: Crew, deadlines: Deadlines, num_processes: int) -> None:
        self._crew = crew
        self._deadlines = deadlines
        self.num_processes = num_processes
        """Count of the processes of each worker's engine."""

    @property
    def members(self) -> list[Any]:
        """The actor in each slot."""
        return [slot.worker.actor for slot in self._crew.slots.values()]

    @property
    def deadline_s(self) -> float:
        """Longest time that a worker may take to load a version."""
        return self._deadlines.limit_s

    def load(self, published: PublishedVersion) -> None:
        """Return when every engine serves the version."""
        self._crew.published = published  # first: a worker that is replaced during the delivery loads this version
        # Before the delivery: a worker that is replaced during it may be behind again.
        for slot in self._crew.slots.values():
            slot.is_behind = False
        published.deliver(self)
        # Last: the load is not over while a successor from the delivery still pulls.
        self._crew.admit(self._crew.joining)

    def pull(self, weights: Weights) -> dict[int, str]:
        """Have all workers load a version from the object store; replace those who fail, and return why they failed, by slot."""
        due_at = self._deadlines.from_now()
        failures: dict[int, str] = {}
        # All collectors are called before one is awaited: the loads share one deadline.
        loading = {channel: channel.load_weights(weights, self.deadline_s) for channel in self._crew.channels}
        for channel, loaded in loading.items():
            failed = self._failures(channel, loaded, weights, due_at)
            for number, failure in failed.items():  # replaced even if it lives: it may be in the middle of an update
                logger.warning(
                    "rollout worker %d is replaced, as it did not load weights of version %d: %s", number, weights.version, failure
                )
                self._crew.replace(self._crew.slots[number], RolloutError(failure))
            failures |= failed
        return failures

    def receive(self, version: int, meeting: Meeting) -> list[Any]:
        """Call each worker to receive a version from a broadcast, in which rank 0 is the sender's."""
        ranks = count(1, self.num_processes)
        return [worker.receive_weights.remote(version, meeting, rank) for worker, rank in zip(self.members, ranks, strict=False)]

    def _failures(self, channel: Channel, loaded: "ray.ObjectRef[dict[int, str]]", weights: Weights, due_at: float) -> dict[int, str]:
        """Return why workers of a collector do not serve the version; if it dies, the collector in its place asks them again."""
        while True:
            left_s = max(0.0, due_at - time.monotonic())
            try:
                return ray.get(loaded, timeout=left_s + ANSWER_S)
            except (GetTimeoutError, RayActorError) as error:
                if time.monotonic() > due_at:
                    raise RolloutError(
                        f"a collector of rollout workers did not answer within rollout.deadline_s={self.deadline_s:g} s: {error}"
                    ) from error
                # Workers still load for the dead collector; their lock lets the second load wait for the first.
                self._crew.reopen(channel, error)
                loaded = channel.load_weights(weights, left_s)
