"""Rollout workers whose completions are as long as the problem says. Ray's processes import them from here."""

import asyncio
from dataclasses import dataclass

import ray

from actors.placed import PlacedWorker, Worker, into, placement
from ovt_ray.core.config.run import RolloutConfig
from ovt_ray.core.types import Problem, Sampling
from ovt_ray.core.weights.meeting import Meeting
from ovt_ray.core.weights.version import Weights
from workloads.simulated import SimulatedWorker, Speed

TOKEN_S = 0.01


class Scripted(SimulatedWorker):
    """A worker whose completions are as long as the problem's question says, and which loads weights when they are there."""

    async def load_weights(self, weights: Weights) -> int:
        await asyncio.gather(*weights.buckets)
        return await super().load_weights(weights)

    async def receive_weights(self, version: int, meeting: Meeting, first_rank: int) -> int:
        """Return the version."""
        self._version = version
        return version

    def _length(self, problem: Problem, sampling: Sampling, index: int) -> int:
        return int(problem.question.split()[index])


@dataclass(frozen=True, slots=True)
class ScriptedLauncher:
    """Starts scripted workers where engines would be."""

    def launch(self, config: RolloutConfig) -> Worker:
        group = placement(config)
        speed = Speed(num_slots=config.max_num_seqs, mean_tokens=1, token_s=TOKEN_S)
        remote = ray.remote(num_cpus=1, max_concurrency=1000, scheduling_strategy=into(group))(Scripted)
        return PlacedWorker(remote.remote(speed), group)
