"""How a version of the weights travels from the learner to the rollout workers.

The learner publishes through a `Transport`. The driver hands the `PublishedVersion` to the rollout pool, which has it delivered to its
workers and asks it again for each worker that comes late. The pool knows nothing of the way that the bytes take.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ovt_ray.core.weights.meeting import Meeting
from ovt_ray.core.weights.version import Weights


class Workers(Protocol):
    """The rollout workers, as a transport sees them."""

    @property
    def members(self) -> Sequence[Any]:
        """The worker in each slot; a replaced worker is not equal to its successor."""

    @property
    def num_processes(self) -> int:
        """Count of the processes of each worker. All of them join a broadcast."""

    @property
    def deadline_s(self) -> float:
        """Longest time that a worker may take to load a version."""

    def pull(self, weights: Weights) -> Mapping[int, str]:
        """Have all workers load a version from the object store; replace those who fail.

        Return why workers failed, by slot.
        """

    def receive(self, version: int, meeting: Meeting) -> Sequence[Any]:
        """Call each worker to receive a version from a broadcast; return the references of the calls."""


class PublishedVersion(Protocol):
    """A version that the learner has published, and the way to it."""

    @property
    def version(self) -> int:
        """Number of the version."""

    def deliver(self, workers: Workers) -> None:
        """Return when each worker serves the version or is replaced."""

    def for_late_joiner(self) -> Weights | None:
        """Return the version for a worker that was not there at the delivery; None where the learner has other weights by now."""


class Transport(Protocol):
    """The learner's way of publishing."""

    def begin_stage(self) -> None:
        """Forget the first model of the stage before."""

    def publish(self, version: int, *, is_checked: bool) -> PublishedVersion:
        """Return the learner's weights as a version, with a checksum of each tensor if it is checked."""


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version in the object store, from which every worker pulls it."""

    weights: Weights

    @property
    def version(self) -> int:
        """Number of the version."""
        return self.weights.version

    def deliver(self, workers: Workers) -> None:
        """Return when each worker serves the version or is replaced."""
        workers.pull(self.weights)

    def for_late_joiner(self) -> Weights:
        """Return the version: the object store keeps it as long as anyone refers to it."""
        return self.weights
