"""Identifies a job's processes by their command lines."""

import psutil

KINDS = {
    "VLLM::": "engine",
    "spawn_main": "engine",  # an engine that could not name itself, which depends on the place of its environment in memory
    "ray::RankActor": "learner rank",
    "ray::RolloutWorker": "rollout worker",
    "ray::Collector": "collector",
    "ray::PublishingRank": "publishing rank",  # a learner rank that only publishes, in `benchmarks.weights`
    "ray::RewardActor": "reward actor",
    "reward.service.process": "reward process",
    "raylet/raylet": "raylet",
    "": "rest of Ray",
}
"""Kind of a process by a part of its command line. The first match counts."""
RAYS_OWN = ("raylet", "rest of Ray")


def kind_of(process: psutil.Process) -> str:
    """Return the kind of a child of the driver. Raises psutil.Error if it has ended."""
    line = " ".join(process.cmdline())
    return next(kind for part, kind in KINDS.items() if part in line)
