"""The crew: the workers of a rollout pool, how they start, and how dead ones are replaced."""

import math
import time
from collections.abc import Collection
from contextlib import suppress

import ray
from ray.exceptions import GetTimeoutError, RayError

from actors.channel import Channel
from actors.deadlines import Deadlines
from actors.placed import Launcher
from actors.requests import RequestQueue
from actors.slots import WorkerSlot
from ovt_ray.core.config.run import RolloutConfig
from ovt_ray.core.errors import RolloutError
from ovt_ray.core.spans import Span
from ovt_ray.core.weights.transport import PublishedVersion

WORKERS_PER_COLLECTOR = 512
GATHER_S = 0.05
"""Shortest time between two messages to the driver, whichever collector sends them: events wait so long for others."""
GATHER_S_PER_WORKER = 1e-4
"""Events of more than 500 workers wait so long for each worker. Something always ends somewhere, and a message costs the driver 1 ms."""


class Crew:
    """Worker slots, and the channels to their collectors. The queue loses and gets back what a slot's worker had."""

    def __init__(self, config: RolloutConfig, launcher: Launcher, queue: RequestQueue, deadlines: Deadlines) -> None:
        """Begin without workers; `add` starts them."""
        self._config = config
        self._launcher = launcher
        self._queue = queue
        self._deadlines = deadlines
        self.slots: dict[int, WorkerSlot] = {}
        """By number, ascending."""
        self.channels: list[Channel] = []
        self.joining: dict[ray.ObjectRef, WorkerSlot] = {}
        """Slots of successors, by the call that ends when they serve the current weights."""
        self.published: PublishedVersion | None = None
        """The version that workers serve; None while they serve the weights of their start."""

    def add(self, num_workers: int) -> None:
        """Start workers in new slots. They have requests at once, which wait for their engines, or after they loaded published weights."""
        first = max(self.slots, default=-1) + 1
        num_all = len(self.slots) + num_workers
        num_channels = math.ceil(num_all / WORKERS_PER_COLLECTOR)
        gather_s = num_channels * max(GATHER_S, num_all * GATHER_S_PER_WORKER)
        # Earlier channels too: the driver pays for the messages of all of them together.
        for channel in self.channels:
            channel.gather_s = gather_s
        self.channels += [Channel(gather_s) for _ in range(num_channels - len(self.channels))]
        added = [
            WorkerSlot(number=number, worker=self._launcher.launch(self._config), channel=self.channels[number % num_channels])
            for number in range(first, first + num_workers)
        ]
        self.slots |= {slot.number: slot for slot in added}
        # Before the slots open: the next dispatch may call a collector, which has to know the worker.
        for channel in self.channels:
            channel.assign({slot.number: slot.worker.actor for slot in added if slot.channel is channel})
        for slot in added:
            self._queue.open(slot)
            if self.published is not None:
                self._join(slot)

    def wait_until_ready(self) -> None:
        """Return when every engine answers; raises RolloutError with the reason when one cannot start."""
        self._gather([slot.worker.actor.ready.remote() for slot in self.slots.values()], "start", self._deadlines.limit_s)

    def replace(self, slot: WorkerSlot, error: Exception) -> None:
        """Put a new worker into a dead one's slot. Others get the requests of the dead one; the successor has to load weights first."""
        # First: this raises if workers keep dying of a problem, and then no successor is started.
        self._queue.take_back(slot, error)
        # Its own call to join, if any, fails now, and `admit` would raise for it.
        self.joining = {ref: joining for ref, joining in self.joining.items() if joining is not slot}
        # Ended first, even if it lives: a full cluster has no other place for the successor.
        slot.worker.end()
        slot.worker = self._launcher.launch(self._config)
        slot.channel.assign({slot.number: slot.worker.actor})
        self._join(slot)

    def admit(self, calls: Collection[ray.ObjectRef]) -> None:
        """Let the successors that are joining by these calls have work, waiting for them if need be.

        Raises RolloutError if one died, refused the weights or is late.
        """
        for joined in list(calls):
            limit_s = max(0.0, self.joining[joined].joins_by - time.monotonic())
            self._gather([joined], "load weights" if self.published else "start", limit_s)
            # Only now: a dispatch before would have it generate with older weights.
            self.joining.pop(joined).is_joining = False

    def reopen(self, channel: Channel, error: Exception) -> None:
        """Put a collector into a dead one's place. The unfinished requests of its workers are generated again."""
        channel.open()
        # The workers live, but the streams of their calls have died with the collector.
        slots = [slot for slot in self.slots.values() if slot.channel is channel]
        channel.assign({slot.number: slot.worker.actor for slot in slots})
        for slot in slots:
            self._queue.take_back(slot, error)

    def weight_checksums(self) -> list[dict[str, str]]:
        """Return each worker's digests of its engine's parameters."""
        self.admit(self.joining)
        asked = [slot.worker.actor.weight_checksums.remote() for slot in self.slots.values()]
        return self._gather(asked, "compute checksums", self._deadlines.limit_s)

    def take_spans(self, limit_s: float) -> list[tuple[Span, ...]]:
        """Return each worker's spans since the last call, worker by worker; none of one that does not answer in time."""
        spans: dict[int, tuple[Span, ...]] = {}
        # All collectors are asked before one is awaited, so that the waits overlap.
        for asked in [channel.take_spans(limit_s) for channel in self.channels]:
            with suppress(RayError):  # the next poll replaces a collector that died
                # Twice the limit: the collector answers after the workers' limit at the latest.
                spans |= ray.get(asked, timeout=2 * limit_s)
        return [spans.get(number, ()) for number in self.slots]

    def process_ids(self) -> list[int]:
        """Return each worker's process id."""
        return self._gather([slot.worker.actor.ready.remote() for slot in self.slots.values()], "answer", self._deadlines.limit_s)

    def close(self) -> None:
        """End every worker and its engine."""
        # Asked to close first: after a mere kill, the engine's processes live on for up to a second.
        closing = [slot.worker.actor.close.remote() for slot in self.slots.values()]
        ray.wait(closing, num_returns=len(closing), timeout=10)
        for slot in self.slots.values():
            slot.worker.end()
        for channel in self.channels:
            ray.kill(channel.collector)
        self.slots.clear()
        self.channels.clear()
        self.joining.clear()
        self.published = None  # whoever still holds a closed pool does not hold weights

    def _join(self, slot: WorkerSlot) -> None:
        """Have a new worker load the published weights, if they are to be had; `admit` lets it have work after that."""
        slot.joins_by = self._deadlines.from_now()
        stored = self.published.for_late_joiner() if self.published else None
        # None: the learner has other weights by now. Work with the weights of its start would be of a wrong version.
        slot.is_behind = self.published is not None and stored is None
        slot.is_joining = True
        actor = slot.worker.actor
        self.joining[actor.load_weights.remote(stored) if stored else actor.ready.remote()] = slot

    def _gather(self, refs: list[ray.ObjectRef], verb: str, limit_s: float) -> list:
        try:
            return ray.get(refs, timeout=limit_s)
        except GetTimeoutError as error:
            raise RolloutError(
                f"rollout workers did not {verb} within rollout.deadline_s={self._deadlines.limit_s:g} s; asked for "
                f"{len(self.slots)} x (CPU {self._config.cpus_per_worker}, GPU {self._config.gpus_per_worker:g}), "
                f"the cluster has {_amounts(ray.cluster_resources())}, free are {_amounts(ray.available_resources())}"
            ) from error
        except RayError as error:
            raise RolloutError(f"a rollout worker could not {verb}: {error}") from error


def _amounts(resources: dict[str, float]) -> str:
    return ", ".join(f"{name} {resources.get(name, 0):g}" for name in ("CPU", "GPU"))
