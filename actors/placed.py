"""A rollout worker and the place that Ray gave it."""

from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ovt_ray.config import RolloutConfig


class Worker(Protocol):
    """What the pool has of a worker."""

    @property
    def actor(self) -> Any:
        """Something with the remote methods of `RolloutWorker`."""

    def end(self) -> None:
        """End it at once, whatever it is doing."""


@dataclass(frozen=True, slots=True, eq=False)
class PlacedWorker:
    """A worker in a placement group of its own: a group has the size that it was made with, a pool has not."""

    actor: ActorHandle
    group: PlacementGroup

    def end(self) -> None:
        """End the actor and give its place back."""
        ray.kill(self.actor)
        remove_placement_group(self.group)


def placement(config: RolloutConfig) -> PlacementGroup:
    """Return a place for one worker; Ray finds it, and an actor that is put there waits until it has."""
    asked = {"CPU": float(config.cpus_per_worker), "GPU": float(config.gpus_per_worker)}
    return placement_group([{name: amount for name, amount in asked.items() if amount}])


def into(group: PlacementGroup) -> PlacementGroupSchedulingStrategy:
    """Return what makes Ray start an actor in a group of one bundle."""
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
