"""Prints the GPU that Ray gives to a rank and an engine that share one: `python -m tests.ovt_ray.shared_gpu`, in a cluster of its own."""

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.placed import into, placement
from learner.ranks import place
from ovt_ray.core.config.run import LearnerConfig, RolloutConfig


@ray.remote(num_cpus=1)
class Holder:
    """Stands where a rank or an engine would."""

    def gpus(self) -> list[int]:
        """Return the GPUs that are this actor's."""
        return ray.get_gpu_ids()


if __name__ == "__main__":
    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    rollout, learner = RolloutConfig(gpus_per_worker=0.4, gpu_memory_utilization=0.35), LearnerConfig(gpus_per_rank=0.6)
    of_rank = PlacementGroupSchedulingStrategy(place(learner, 30.0), placement_group_bundle_index=0)
    holders = [
        Holder.options(num_gpus=learner.gpus_per_rank, scheduling_strategy=of_rank).remote(),
        Holder.options(num_gpus=rollout.gpus_per_worker, scheduling_strategy=into(placement(rollout))).remote(),
    ]
    print(ray.get([holder.gpus.remote() for holder in holders], timeout=30))
    ray.shutdown()
