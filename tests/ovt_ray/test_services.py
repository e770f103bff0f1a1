"""Where services find a place in the cluster."""

import sys

import pytest
import ray
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.placed import into, placement
from learner.ranks import place
from ovt_ray.core.config.run import LearnerConfig, RolloutConfig

pytestmark = pytest.mark.heavy
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker of Ray cannot import a test


@ray.remote(num_cpus=1)
class Holder:
    """Stands where a rank or an engine would."""

    def gpus(self) -> list[int]:
        """Return the GPUs that are this actor's."""
        return ray.get_gpu_ids()


def test_a_rank_and_an_engine_with_shares_of_a_gpu_fit_on_one(ray_session: None) -> None:
    rollout, learner = RolloutConfig(gpus_per_worker=0.4, gpu_memory_utilization=0.35), LearnerConfig(gpus_per_rank=0.6)
    of_rank, of_engine = place(learner, 30.0), placement(rollout)
    strategy = PlacementGroupSchedulingStrategy(of_rank, placement_group_bundle_index=0)
    holders = [
        Holder.options(num_gpus=learner.gpus_per_rank, scheduling_strategy=strategy).remote(),
        Holder.options(num_gpus=rollout.gpus_per_worker, scheduling_strategy=into(of_engine)).remote(),
    ]
    [of_learner, of_pool] = ray.get([holder.gpus.remote() for holder in holders], timeout=30)
    assert len(of_learner) == len(of_pool) == 1 and (of_learner == of_pool or ray.cluster_resources()["GPU"] > 1)
    for group in (of_rank, of_engine):
        remove_placement_group(group)
