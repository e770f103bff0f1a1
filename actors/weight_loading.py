"""How a published version of the weights gets to every worker of a pool."""

import time

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from actors.channel import Channel
from actors.crew import Crew
from actors.deadlines import Deadlines
from actors.receivers import Receivers
from ovt_ray.core.errors import RolloutError
from ovt_ray.core.weights.version import Broadcast, Weights

ANSWER_S = 10.0
"""Time for a collector to report, after a deadline, which workers were not done."""


class WeightLoading:
    """Loads versions into the workers of a crew; workers that die or fail meanwhile are replaced."""

    def __init__(self, crew: Crew, deadlines: Deadlines, num_shards: int) -> None:
        """Each engine has `num_shards` processes."""
        self._crew = crew
        self._deadlines = deadlines
        self._receivers = Receivers(num_shards, deadlines.limit_s)

    def load(self, weights: Weights | Broadcast) -> None:
        """Return when every engine serves the version."""
        self._crew.published = weights  # first: a worker that is replaced during the delivery loads this version
        if not (isinstance(weights, Broadcast) and self._receivers.have_taken(weights, list(self._crew.slots.values()))):
            stored = weights.stored()
            assert stored, "what the learner has just published it still has"
            self._pull(stored)
            if isinstance(weights, Broadcast):
                self._receivers.have_pulled(is_any_lost=bool(self._crew.joining))
        self._crew.admit_all()

    def _pull(self, weights: Weights) -> None:
        """Return when every worker has the version from the object store, or is replaced."""
        due_at = self._deadlines.from_now()
        loading = {channel: channel.load_weights(weights, self._deadlines.limit_s) for channel in self._crew.channels}
        for channel, loaded in loading.items():
            for number, failure in self._failures(channel, loaded, weights, due_at).items():  # some may be in the middle of an update
                print(
                    f"rollout worker {number} is replaced, as it did not load weights of version {weights.version}: {failure}", flush=True
                )
                self._crew.replace(self._crew.slots[number], RolloutError(failure))

    def _failures(self, channel: Channel, loaded: "ray.ObjectRef[dict[int, str]]", weights: Weights, due_at: float) -> dict[int, str]:
        """Return why which of a collector's workers do not serve the version; if it dies, the one in its place asks them again."""
        while True:
            left_s = max(0.0, due_at - time.monotonic())
            try:
                return ray.get(loaded, timeout=left_s + ANSWER_S)
            except (GetTimeoutError, RayActorError) as error:
                if time.monotonic() > due_at:
                    raise RolloutError(
                        f"a collector of rollout workers did not answer within rollout.deadline_s={self._deadlines.limit_s:g} s: {error}"
                    ) from error
                self._crew.reopen(channel, error)
                loaded = channel.load_weights(weights, left_s)
