"""The way of the weights through a broadcast: the learner sends them to all engines at once, and keeps no copy.

A group of sender and engines lasts from version to version, until a worker is replaced. A version that does not reach every worker goes
to all of them through the object store. A worker that comes late finds it there too, as long as the learner still has it.
"""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import ray
from ray.exceptions import RayError, RayTaskError

from learner.rank_actor import RankActor
from learner.ranks import Ranks
from ovt_ray.core.errors import RolloutError
from ovt_ray.core.weights.meeting import Meeting
from ovt_ray.core.weights.transport import Workers
from ovt_ray.core.weights.version import Weights

MAX_IN_VAIN = 2
"""Versions in a row that no broadcast brings, although all workers can pull them. Each of them may cost the deadline."""
SETTLE_S = 10.0
"""Time that receivers may take to give up after the sender. They look for its failure several times a second."""

logger = logging.getLogger(__name__)


class Sender(Protocol):
    """The sending end of a broadcast."""

    @property
    def num_changes(self) -> int:
        """Count of the changes of the weights so far."""

    def check_open(self) -> None:
        """Raise LearnerError if nothing can be sent any more."""

    def call_group(self, num_members: int, deadline_s: float) -> Meeting:
        """Return where a new group meets, in place of the group before."""

    def send(self, calls: Sequence[Any], *, is_checked: bool) -> str:
        """Send the weights to the group; return why that failed, empty if it did not. `calls` are the receivers' calls, to be watched."""

    def stored(self, version: int, num_changes: int) -> Weights | None:
        """Put the weights into the object store as a version; None if they have changed since this count of changes."""


class RankSender:
    """The ranks of the learner as the sending end."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    @property
    def num_changes(self) -> int:
        """Count of the changes of the weights so far."""
        return self._ranks.num_changes

    def check_open(self) -> None:
        """Raise LearnerError if the ranks have ended."""
        self._ranks.check_open("publish")

    def call_group(self, num_members: int, deadline_s: float) -> Meeting:
        """Return where a new group meets: on rank 0's node."""
        return self._ranks.first(RankActor.call_group, num_members, deadline_s)

    def send(self, calls: Sequence[Any], *, is_checked: bool) -> str:
        """Send the weights to the group from rank 0; return why that failed, empty if it did not."""
        return self._ranks.all(RankActor.broadcast, list(calls), is_checked)[0]

    def stored(self, version: int, num_changes: int) -> Weights | None:
        """Put the weights into the object store as a version; None if they have changed since this count of changes."""
        return self._ranks.first_if_unchanged(num_changes, RankActor.stored, version)


class BroadcastTransport:
    """Sends each version to a group that all workers have joined."""

    def __init__(self, sender: Sender) -> None:
        self.sender = sender
        self.meeting: Meeting | None = None
        """Meeting of the group; None where a new group has to be called."""
        self._members: list[Any] = []
        """Workers of the group in the order of their ranks."""
        self._num_in_vain = 0
        """Versions of this stage in a row that did not arrive, though no worker was lost."""

    def begin_stage(self) -> None:
        """Count failures again from 0: the stage may have other workers. The group stays, as it does not depend on the model."""
        self._num_in_vain = 0

    def publish(self, version: int, *, is_checked: bool) -> "BroadcastVersion":
        """Return the weights as a version; nothing is sent before its delivery."""
        self.sender.check_open()
        return BroadcastVersion(version, self, is_checked=is_checked)

    def send(self, version: int, workers: Workers, *, is_checked: bool) -> str:
        """Send the weights to all workers; return why not all of them serve the version, empty if they do."""
        members = list(workers.members)
        # The group counts as broken until every member has the version: whoever raises on the way leaves no half-used group behind.
        meeting, self.meeting = self.meeting, None
        # A successor has joined no group: any change of the workers needs a new one.
        if meeting is None or members != self._members:
            meeting = self.sender.call_group(1 + len(members) * workers.num_processes, workers.deadline_s)
        # Receivers first: the sender waits until all of them have joined.
        calls = list(workers.receive(version, meeting))
        failure = self.sender.send(calls, is_checked=is_checked)
        # Receivers end by themselves. Before the object store takes over, no engine may still be in the middle of this broadcast.
        ray.wait(calls, num_returns=len(calls), timeout=SETTLE_S if failure else workers.deadline_s)
        # A receiver may fail after the last byte, in its own check of the whole version.
        failure = failure or next(filter(None, map(_error, calls)), "")
        if not failure:
            self.meeting, self._members, self._num_in_vain = meeting, members, 0
        return failure

    def count_in_vain(self, failure: str, *, is_any_lost: bool) -> None:
        """Take note that workers pulled a version that could not be sent; raises RolloutError if no broadcast seems to work here."""
        # A death explains a failure. Only failures without one speak against broadcasts on this cluster.
        self._num_in_vain = 0 if is_any_lost else self._num_in_vain + 1
        if self._num_in_vain == MAX_IN_VAIN:
            raise RolloutError(
                f"{MAX_IN_VAIN} versions of the weights in a row could not be broadcast, though every worker lives ({failure}): set "
                "learner.weight_transport=object_store and run the same command again"
            )


class BroadcastVersion:
    """A version that the learner sends while it has its weights."""

    def __init__(self, version: int, transport: BroadcastTransport, *, is_checked: bool) -> None:
        self.version = version
        self._transport = transport
        self._is_checked = is_checked
        # Read now: after any later change the learner's weights are another version.
        self._num_changes = transport.sender.num_changes
        self._stored: Weights | None = None
        """The version in the object store, once anyone had to pull it."""

    def deliver(self, workers: Workers) -> None:
        """Send the version to all workers; if that fails, have all of them pull it."""
        failure = self._transport.send(self.version, workers, is_checked=self._is_checked)
        if not failure:
            return
        reason = f"weights of version {self.version} come from the object store, as not all workers received them: {failure}"
        logger.warning(reason)
        # At once: the loop waits for this delivery, so the learner cannot have updated yet.
        stored = self.for_late_joiner()
        assert stored, "the learner still has the weights that it has just published"
        lost = workers.pull(stored)
        self._transport.count_in_vain(reason, is_any_lost=bool(lost))

    def for_late_joiner(self) -> Weights | None:
        """Return the version, which the learner puts into the object store if it still has it; else None."""
        # Kept: by the time of a second successor the learner may have moved on.
        self._stored = self._stored or self._transport.sender.stored(self.version, self._num_changes)
        return self._stored


def _error(call: ray.ObjectRef) -> str:
    """Return why a call failed, or that it has not ended; empty if it succeeded."""
    try:
        ray.get(call, timeout=0)
    except RayTaskError as error:
        return str(error.cause) or repr(error.cause)
    except RayError as error:
        return str(error) or type(error).__name__
    return ""
