"""The learner group as the driver sees it: one Ray actor per DeepSpeed rank. The only file of the learner that knows Ray."""

import socket
import threading
import time
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import Tensor

from learner.rank import LearnerRank
from learner.stage import Stage
from learner.weights import checksums, on_the_wire
from ovt_ray.core.config.run import LearnerConfig, ModelConfig
from ovt_ray.core.errors import BroadcastError, ConfigError, LearnerError
from ovt_ray.core.spans import Span, recorded
from ovt_ray.core.types import TrainSample, UpdateStats
from ovt_ray.core.weights.broadcast import Group, Meeting, called
from ovt_ray.core.weights.version import Adapter, Broadcast, Weights, WeightTensor

PLACEMENT_DEADLINE_S = 60.0
CHECKSUM_EVERY = 10
"""The first of so many versions is checked byte by byte: SHA-256 of a gigabyte takes half a second on each side, a copy a tenth."""


class RankActor(LearnerRank):
    """A rank as a Ray actor: it is found by its address and keeps published weights in the object store."""

    def address(self) -> tuple[str, int]:
        """Return this node's address and a port that is free on it."""
        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    @recorded
    def publish(self, with_checksums: bool) -> tuple[list[Any], dict[str, str]]:
        """Return what `put_buckets` does of the policy's weights; nothing above rank 0."""
        return put_buckets(map(on_the_wire, self.weights()), with_checksums)

    @recorded
    def publish_base(self) -> tuple[list[Any], dict[str, str]]:
        """Return what `publish` does of the policy without its adapters."""
        return put_buckets(map(on_the_wire, self.base_weights()), with_checksums=True)

    @recorded
    def publish_adapters(self, with_checksums: bool) -> tuple[list[Any], dict[str, str]]:
        """Return what `publish` does of the policy's adapters."""
        return put_buckets(self.adapters(), with_checksums)

    def stored(self, version: int) -> Weights:
        """Return the policy's weights, put into the object store under a version; on rank 0."""
        buckets, sums = self.publish(with_checksums=True)
        return Weights(version=version, buckets=tuple(buckets), checksums=sums)

    def call_group(self, num_members: int, deadline_s: float) -> Meeting:
        """Return where a new group for broadcasts meets, in place of the one before."""
        if self._group:
            self._group.close()
        self._group = None
        self._meeting, self._store = called(ray.util.get_node_ip_address(), num_members, deadline_s)
        return self._meeting

    @recorded
    def broadcast(self, receiving: list[Any], with_checksums: bool) -> str:
        """Send the policy's weights to the group; return why it failed, empty if it did not. `receiving` are the calls of the receivers.

        Whatever becomes of a bucket, all ranks take part in gathering the next.
        """
        self._receiving = receiving
        failure = ""
        for bucket in chain(self.weights(), [{}]):
            if self._rank == 0 and not failure:
                failure = self._send(bucket, with_checksums)
        return failure

    def _send(self, bucket: dict[str, Tensor], with_checksums: bool) -> str:
        try:
            if self._group is None:
                self._group = Group(self._meeting, self._store, 0, self._device, lambda: first_failure(self._receiving))
            self._group.send(bucket, with_checksums=with_checksums)
        except BroadcastError as error:
            return str(error)
        return ""

    def take_spans(self) -> tuple[Span, ...]:
        """Return what this rank did since it was last asked."""
        return self.spans.take()

    _group: Group | None = None
    """What broadcasts go through, once all are there; on rank 0."""


def first_failure(calls: Sequence[Any]) -> str:
    """Return why one of the calls failed that have ended; empty if none did."""
    ended, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0, fetch_local=False)
    for call in ended:
        try:
            ray.get(call)
        except RayTaskError as error:
            return str(error.cause) or repr(error.cause)
        except RayError as error:
            return str(error) or type(error).__name__
    return ""


def put_buckets(buckets: Iterable[Sequence[WeightTensor | Adapter]], with_checksums: bool) -> tuple[list[Any], dict[str, str]]:
    """Return a reference to each bucket in the object store, and the tensors' checksums if asked for; empty buckets are left out.

    On a CPU the store's copy is the only one: it is made from the parameters themselves.
    """
    references, sums = [], {}
    for bucket in buckets:
        if bucket:
            references.append(ray.put(bucket))
            sums.update(checksums(bucket) if with_checksums else {})
    return references, sums


class LearnerGroup:
    """All ranks of the learner. Any failure ends the group: its ranks would wait for each other for ever."""

    def __init__(self, config: LearnerConfig, model: ModelConfig, seed: int) -> None:
        """Start one actor per rank. They get ready in the background; the first call waits for them.

        Raises LearnerError if the cluster does not have the resources within a minute.
        """
        self._config = config
        self._version = 0
        self._base: tuple[list[Any], dict[str, str]] | None = None
        """References and checksums of the stage's first model, once it is published; with adapters only."""
        self._in_order = threading.Lock()
        """Held while all ranks are called: whichever thread calls, each rank has the calls in the same order."""
        self._is_current = False
        """Whether the ranks' weights are those of the last version."""
        self._stored: Weights | None = None
        """The last version in the object store, where one that was broadcast had to be put there."""
        self._placement = place(config, PLACEMENT_DEADLINE_S)
        env = {"OMP_NUM_THREADS": str(config.cpus_per_rank), "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
        self._actors = [
            ray.remote(RankActor)
            .options(
                num_cpus=config.cpus_per_rank,
                num_gpus=config.gpus_per_rank,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._placement, placement_group_bundle_index=rank),
                runtime_env={"env_vars": env},
            )
            .remote(config, model, seed)
            for rank in range(config.num_ranks)
        ]
        address = self._actors[0].address.remote()
        self._joined = [actor.join.remote(rank, config.num_ranks, address) for rank, actor in enumerate(self._actors)]

    def begin(self, stage: Stage) -> None:
        """Load the stage's first model with a fresh optimizer in place of what an earlier stage left."""
        self._collect(self._joined, "start")
        self._base, self._is_current = None, False
        self._all("begin", stage)

    def update(self, samples: Sequence[TrainSample]) -> UpdateStats:
        """Take one optimizer step on the samples and return its figures."""
        self._is_current = False
        return self._all("update", ray.put(list(samples)))[0]

    def logprobs(self, samples: Sequence[TrainSample]) -> list[tuple[float, ...]]:
        """Return the policy's log-probabilities of each sample's completion tokens, in order.

        They are of the stage's distribution: at its temperature, without image placeholders.
        """
        shares = self._all("logprobs", ray.put(list(samples)))
        return [row for share in shares for row in share]

    def validation_loss(self, samples: Sequence[TrainSample]) -> float:
        """Return the mean cross entropy of the samples' loss tokens, nats, at the stage's temperature; nothing is updated."""
        return self._all("validation_loss", ray.put(list(samples)))[0]

    def publish(self) -> Weights | Broadcast:
        """Return the next version of the weights; the object store of rank 0's node holds the bytes, or the ranks do, to send them.

        With adapters, the first version of a stage publishes the stage's first model, checked; each later one refers to it.
        """
        self._version += 1
        return self._published(with_checksums=self._version % CHECKSUM_EVERY == 1)

    def publish_again(self, version: int) -> Weights | Broadcast:
        """Return the weights under the version that they had before a stop; the count goes on from it."""
        self._version = version
        return self._published(with_checksums=True)

    @property
    def version(self) -> int:
        """The version that was published last; 0 before the first."""
        return self._version

    def save(self, folder: Path, step: int) -> None:
        """Write a checkpoint of `step`. It appears in one piece; the one before stays until then and is removed after."""
        self._all("save", folder.absolute(), step)

    def restore(self, folder: Path) -> int:
        """Go back to the folder's newest complete checkpoint and return its step; return 0 if there is none.

        Training goes on with the same numbers as if it had never stopped.
        """
        self._is_current = False
        return self._all("restore", folder.absolute())[0]

    def export(self, folder: Path) -> None:
        """Write the policy as a plain Hugging Face folder, in one piece."""
        self._all("export", folder.absolute())

    def take_spans(self) -> "list[ray.ObjectRef[tuple[Span, ...]]]":
        """Return a reference, in rank order, to what each rank did since it was last asked."""
        return [actor.take_spans.remote() for actor in self._actors]

    def close(self) -> None:
        """End all ranks and give their resources back. Closing twice is fine."""
        actors, self._actors = self._actors, []
        self._is_current = False
        for actor in actors:
            ray.kill(actor)
        if actors:
            remove_placement_group(self._placement)

    def _published(self, *, with_checksums: bool) -> Weights | Broadcast:
        if self._config.weight_transport == "broadcast":
            self._check_open("publish")
            self._is_current, self._stored = True, None
            return Broadcast(
                version=self._version,
                call_group=self._call_group,
                send=partial(self._send, with_checksums),
                stored=partial(self._stored_version, self._version),
            )
        if self._config.lora is None:
            buckets, sums = self._all("publish", with_checksums)[0]
            return Weights(version=self._version, buckets=tuple(buckets), checksums=sums)
        if self._base is None:
            self._base, with_checksums = self._all("publish_base")[0], True
        buckets, base_sums = self._base
        adapters, sums = self._all("publish_adapters", with_checksums)[0]
        return Weights(
            version=self._version,
            buckets=tuple(buckets),
            adapters=tuple(adapters),
            checksums=base_sums | sums if with_checksums else {},
        )

    def _call_group(self, num_members: int, deadline_s: float) -> Meeting:
        return self._collect([self._actors[0].call_group.remote(num_members, deadline_s)], "call a group")[0]

    def _send(self, with_checksums: bool, receiving: Sequence[Any]) -> str:
        return self._all("broadcast", list(receiving), with_checksums)[0]

    def _stored_version(self, version: int) -> Weights | None:
        with self._in_order:
            if version != self._version:
                return None
            if self._stored or not self._is_current:
                return self._stored
            asked = [actor.stored.remote(version) for actor in self._actors]
        self._stored = self._collect(asked, "put the weights into the object store")[0]
        return self._stored

    def _all(self, verb: str, *arguments: object) -> list[Any]:
        """Return what each rank answers to a call."""
        self._check_open(verb)
        with self._in_order:
            asked = [getattr(actor, verb).remote(*arguments) for actor in self._actors]
        return self._collect(asked, verb)

    def _check_open(self, verb: str) -> None:
        if not self._actors:
            raise LearnerError(f"{verb}: the learner group is closed; make a new one and restore its newest checkpoint")

    def _collect(self, refs: Sequence[Any], verb: str) -> list[Any]:
        """Return all answers in rank order; the first failure or the deadline closes the group and raises LearnerError."""
        deadline = time.monotonic() + self._config.deadline_s
        pending = list(refs)
        try:
            while pending:
                done, pending = ray.wait(pending, timeout=max(0.0, deadline - time.monotonic()))
                if not done:
                    raise LearnerError(
                        f"{verb}: {len(pending)} of {len(refs)} learner ranks gave no answer within "
                        f"learner.deadline_s={self._config.deadline_s:g} s; raise it if a step takes that long, else look at their logs"
                    )
                ray.get(done[0])
            return ray.get(list(refs))
        except RayTaskError as error:
            self.close()
            if isinstance(error.cause, (ConfigError, LearnerError)):
                raise type(error.cause)(f"{verb}: {error.cause}") from error
            raise LearnerError(f"{verb}: a learner rank failed: {error}") from error
        except RayError as error:
            self.close()
            raise LearnerError(f"{verb}: a learner rank died: {error}") from error
        except LearnerError:
            self.close()
            raise


def place(config: LearnerConfig, deadline_s: float) -> PlacementGroup:
    """Return a placement group with one bundle per rank, close together.

    Raises LearnerError saying what was asked for and what the cluster has if there is no room before the deadline.
    """
    bundle = {"CPU": config.cpus_per_rank, "GPU": config.gpus_per_rank}
    bundle = {name: amount for name, amount in bundle.items() if amount}
    placement = placement_group([bundle] * config.num_ranks, strategy="PACK")
    if placement.wait(deadline_s):
        return placement
    remove_placement_group(placement)
    total, free = ray.cluster_resources(), ray.available_resources()
    has = ", ".join(f"{name} {total.get(name, 0):g} ({free.get(name, 0):g} free)" for name in ("CPU", "GPU"))
    raise LearnerError(
        f"learner.num_ranks={config.num_ranks}: no room for {config.num_ranks} times {bundle} within {deadline_s:g} s; "
        f"the cluster has {has}. Ask for fewer ranks or less per rank, or add nodes"
    )
