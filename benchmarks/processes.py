"""Which of a job's processes is which, by its command line."""

import psutil

KINDS = {
    "VLLM::": "engine",
    "spawn_main": "engine",  # one that could not give itself a name, which depends on where its environment lies in memory
    "ray::RankActor": "learner rank",
    "ray::RolloutWorker": "rollout worker",
    "ray::Collector": "collector",
    "ray::PublishingRank": "publishing rank",  # of `benchmarks.weights`
    "ray::RewardActor": "reward actor",
    "reward.service.process": "reward process",
    "raylet/raylet": "raylet",
    "": "rest of Ray",
}
"""What a process does by what stands in its command line, the first that fits."""
RAYS_OWN = ("raylet", "rest of Ray")


def kind_of(process: psutil.Process) -> str:
    """Return what a child of the driver does. Raises psutil.Error if it has ended."""
    line = " ".join(process.cmdline())
    return next(kind for part, kind in KINDS.items() if part in line)
