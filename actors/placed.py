"""A rollout worker and the place that Ray gave it."""

from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.worker import RolloutWorker
from ovt_ray.core.config.run import ModelConfig, RolloutConfig

KEPT_HEAP = {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776:glibc.malloc.arena_max=1"}
"""Environment of a CPU engine, whose heap keeps freed memory. A weight update frees and takes one matrix after the other. Without this
heap, the kernel would clear fresh pages each time, which takes longer than the copying."""


class Worker(Protocol):
    """A worker as the pool knows it."""

    @property
    def actor(self) -> Any:
        """Actor with the remote methods of `RolloutWorker`."""

    def end(self) -> None:
        """End it at once, even in the middle of its work."""


@dataclass(frozen=True, slots=True, eq=False)
class PlacedWorker:
    """A worker in a placement group of its own. A pool can grow and shrink, and a placement group cannot."""

    actor: ActorHandle
    group: PlacementGroup

    def end(self) -> None:
        """End the actor and give its place back."""
        ray.kill(self.actor)
        remove_placement_group(self.group)


class Launcher(Protocol):
    """Starts the workers of a pool."""

    def launch(self, config: RolloutConfig) -> Worker:
        """Return a new worker; its engine starts once it has its place."""


def placement(config: RolloutConfig) -> PlacementGroup:
    """Return a place for one worker. An actor in this place waits until Ray has found resources for it."""
    asked = {"CPU": float(config.cpus_per_worker), "GPU": float(config.gpus_per_worker)}
    return placement_group([{name: amount for name, amount in asked.items() if amount}])


def into(group: PlacementGroup) -> PlacementGroupSchedulingStrategy:
    """Return the strategy by which Ray starts an actor in a group of one bundle."""
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)


@dataclass(frozen=True, slots=True)
class EngineLauncher:
    """Starts workers with a vLLM engine each."""

    model: ModelConfig
    model_path: str
    """Folder or hub name of the weights that engines start with."""

    def launch(self, config: RolloutConfig) -> PlacedWorker:
        """Return a new worker; its engine starts once it has its place."""
        threads = config.cpus_per_worker // config.tensor_parallel
        environment = engine_environment(threads) | ({} if config.gpus_per_worker else KEPT_HEAP)
        group = placement(config)
        remote = ray.remote(
            num_cpus=config.cpus_per_worker,
            num_gpus=config.gpus_per_worker,
            max_concurrency=1000,
            scheduling_strategy=into(group),
            runtime_env={"env_vars": environment},
        )(RolloutWorker)
        return PlacedWorker(remote.remote(self.model_path, self.model, config), group)


def engine_environment(num_threads: int) -> dict[str, str]:
    """Return the environment of a process that hosts an engine, or a part of one."""
    return {
        "OMP_NUM_THREADS": str(num_threads),
        "OMP_WAIT_POLICY": "passive",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        # A CPU engine of one worker then runs it in the engine's own process, not in a third one.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
