"""The ranks of a learner group as Ray actors: placed, called in one order, and ended together.

Of the learner, this file, `rank_actor.py` and the transports know Ray.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from learner.rank_actor import RankActor
from ovt_ray.core.config.run import LearnerConfig, ModelConfig
from ovt_ray.core.errors import ConfigError, LearnerError
from ovt_ray.core.spans import Span

PLACEMENT_DEADLINE_S = 60.0

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


class Ranks:
    """All ranks of a learner. Any failure ends them all: the others would wait in vain for the rank that failed."""

    def __init__(self, actors: Sequence[Any], placement: PlacementGroup | None, deadline_s: float) -> None:
        """Take actors in the order of their ranks, and the placement that ends with them; nobody waits longer than the deadline."""
        self.actors = list(actors)
        """Handles of `RankActor`; empty once the group is closed."""
        self.num_changes = 0
        """Count of the calls that change the policy's weights."""
        self._placement = placement
        self._deadline_s = deadline_s
        self._in_order = threading.Lock()
        """Held while all ranks are called. Threads call at the same time, and a collective needs the same order of calls on each rank."""

    def all(
        self, method: Callable[Concatenate[RankActor, Arguments], Answer], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> list[Answer]:
        """Return each rank's answer to a call that leaves the policy's weights as they are."""
        self.check_open(method.__name__)
        with self._in_order:
            asked = self._asked(method.__name__, *args, **kwargs)
        # Outside the lock: only the calls need an order, and a wait for answers must not hold up other threads.
        return self.collect(asked, method.__name__)

    def change(
        self, method: Callable[Concatenate[RankActor, Arguments], Answer], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> list[Answer]:
        """Return each rank's answer to a call that changes the policy's weights."""
        self.check_open(method.__name__)
        with self._in_order:
            # Before the calls: from here on nobody may take these weights for an earlier version.
            self.num_changes += 1
            asked = self._asked(method.__name__, *args, **kwargs)
        return self.collect(asked, method.__name__)

    def first_if_unchanged(
        self,
        num_changes: int,
        method: Callable[Concatenate[RankActor, Arguments], Answer],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Answer | None:
        """Return rank 0's answer to a call of all ranks; None, and nothing is called, if the weights have changed since then."""
        with self._in_order:  # or a thread could change the weights between the look and the call
            if num_changes != self.num_changes:
                return None
            asked = self._asked(method.__name__, *args, **kwargs)
        return self.collect(asked, method.__name__)[0]

    def first(
        self, method: Callable[Concatenate[RankActor, Arguments], Answer], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Answer:
        """Return the answer of rank 0, which alone is called."""
        self.check_open(method.__name__)
        # Without the lock: this is no collective, so its place among the calls does not matter.
        return self.collect([getattr(self.actors[0], method.__name__).remote(*args, **kwargs)], method.__name__)[0]

    def take_spans(self) -> "list[ray.ObjectRef[tuple[Span, ...]]]":
        """Return a reference, in rank order, to the spans of each rank since they were last taken."""
        return [actor.take_spans.remote() for actor in self.actors]

    def check_open(self, verb: str) -> None:
        """Raise LearnerError if the group is closed."""
        if not self.actors:
            raise LearnerError(f"{verb}: the learner group is closed; make a new one and restore its newest checkpoint")

    def collect(self, refs: Sequence[Any], verb: str) -> list[Any]:
        """Return all answers in rank order; the first failure or the deadline closes the group and raises LearnerError."""
        deadline = time.monotonic() + self._deadline_s
        pending = list(refs)
        try:
            # One by one as they end: a rank that fails is seen while the others wait for it in a collective.
            while pending:
                done, pending = ray.wait(pending, timeout=max(0.0, deadline - time.monotonic()))
                if not done:
                    raise LearnerError(
                        f"{verb}: {len(pending)} of {len(refs)} learner ranks gave no answer within "
                        f"learner.deadline_s={self._deadline_s:g} s; raise it if a step takes that long, else look at their logs"
                    )
                ray.get(done[0])
            return ray.get(list(refs))
        # Before RayError, its base class: it carries the rank's own message.
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

    def close(self) -> None:
        """End all ranks and give their resources back. Closing twice is fine."""
        # Emptied first: another thread then sees the group closed, and calls no dead rank.
        actors, self.actors = self.actors, []
        self.num_changes += 1  # the weights are gone
        for actor in actors:
            ray.kill(actor)
        if actors and self._placement:
            remove_placement_group(self._placement)

    def _asked(self, verb: str, *args: object, **kwargs: object) -> list[Any]:
        return [getattr(actor, verb).remote(*args, **kwargs) for actor in self.actors]


def start_ranks(config: LearnerConfig, model: ModelConfig, seed: int) -> tuple[Ranks, list[Any]]:
    """Start one actor per rank; return them and references to their `join`, which ends when all ranks have met.

    Raises LearnerError if the cluster does not have the resources within a minute.
    """
    placement = place(config, PLACEMENT_DEADLINE_S)
    env = {"OMP_NUM_THREADS": str(config.cpus_per_rank), "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
    actors = [
        ray.remote(RankActor)
        .options(
            num_cpus=config.cpus_per_rank,
            num_gpus=config.gpus_per_rank,
            scheduling_strategy=PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=rank),
            runtime_env={"env_vars": env},
        )
        .remote(config, model, seed)
        for rank in range(config.num_ranks)
    ]
    # A reference, not awaited: all ranks start side by side, and each gets the address from Ray when rank 0 has it.
    address = actors[0].address.remote()
    joined = [actor.join.remote(rank, config.num_ranks, address) for rank, actor in enumerate(actors)]
    return Ranks(actors, placement, config.deadline_s), joined


def in_store(samples: Sequence[Any]) -> Any:
    """Return a reference to samples, put into the object store once for all ranks; Ray hands a rank the samples themselves."""
    return ray.put(list(samples))


def place(config: LearnerConfig, deadline_s: float) -> PlacementGroup:
    """Return a placement group with one bundle per rank, close together.

    Raises LearnerError if there is no room before the deadline; its message names the resources asked for and those of the cluster.
    """
    bundle = {"CPU": config.cpus_per_rank, "GPU": config.gpus_per_rank}
    bundle = {name: amount for name, amount in bundle.items() if amount}
    placement = placement_group([bundle] * config.num_ranks, strategy="PACK")
    if placement.wait(deadline_s):
        return placement
    # Or Ray would go on to look for room after the error.
    remove_placement_group(placement)
    total, free = ray.cluster_resources(), ray.available_resources()
    has = ", ".join(f"{name} {total.get(name, 0):g} ({free.get(name, 0):g} free)" for name in ("CPU", "GPU"))
    raise LearnerError(
        f"learner.num_ranks={config.num_ranks}: no room for {config.num_ranks} times {bundle} within {deadline_s:g} s; "
        f"the cluster has {has}. Ask for fewer ranks or less per rank, or add nodes"
    )
