"""Measures the driver's cost per completion for different numbers of rollout workers, and the utilisation of the workers.

    python -m benchmarks.scale [WORKERS ...]

The real pool, stream of groups and steps of the loop drive 1, 16, 256 and 1,024 simulated workers (`workloads/simulated.py`), without
vLLM, learner and reward. The length of an answer is log-normal (sigma 1, mean 100 tokens, cut at 400), and each token takes a fixed time.
All sizes offer the same rate, OFFERED_PER_S completions a second: the joint rate of their engines while no slot is empty. A size that costs
the driver more thus does so because it has more workers. With `max_staleness` 1 the next step's problems queue behind a step's longest
answers. Each step ends with a load of empty weights on every worker, and takes the spans of each.

- `driver_us_per_completion`: processor time of this process, with all its threads, per completion that it received.
- `collector_us_per_completion`: processor time of the collectors, which the driver is spared.
- `driver_mb`: resident memory at the end, mostly the completions of two steps.
- `utilisation`: time that slots had a completion, over slots x time, from the end of the first step to the end of the last.
- `rate`: received completions per second. It is OFFERED_PER_S times the utilisation, less the lateness of simulated engines on a busy
  machine.
- `load_weights_ms`: wall-clock time of a load of empty weights on all workers.

`ray` in the JSON has the same figures of 16 workers with a process each. Its `bare_us_per_message` is the cost of reading their streams by
Ray's calls alone: `ray.wait` over all streams, `next`, `ray.get`. Nearly every message brings a single completion. The last line is a JSON
object.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import cast

import psutil
import ray

from actors.pool import RolloutPool
from learner.group import LearnerGroup
from learner.publisher import Publisher
from ovt_ray.core.config.run import RolloutConfig
from ovt_ray.core.config.stages import GrpoConfig, Optimizer
from ovt_ray.core.types import AnswerKind, Outcome, Problem, Sampling, Score
from ovt_ray.core.weights.transport import StoredVersion
from ovt_ray.core.weights.version import Weights
from ovt_ray.data.stream import ItemStream, MixturePart
from ovt_ray.rl.checkpoint import StreamState
from ovt_ray.rl.scored_rollouts import ScoredRollouts, Scores
from ovt_ray.rl.stage import GrpoStage
from ovt_ray.rl.stream import GroupStream
from ovt_ray.services import SPANS_S
from reward.pool import RewardPool
from reward.protocol import Answer
from workloads.simulated import LONGEST_OVER_MEAN, HostedLauncher, PlacedLauncher, SimulatedWorker, Speed

OFFERED_PER_S = 800
MEAN_TOKENS = 100
NUM_COMPLETIONS = 8
SLOTS = {1: 256, 16: 64, 256: 8, 1024: 4}
"""Number of simultaneous completions of each engine, by the number of workers."""
ROUNDS_PER_STEP = 6
"""Completions of a step per slot. While the longest completion ends, the slots go through four rounds of the next step."""
MIN_WINDOW_S = 15.0
LEARN_S = 0.5
"""Length of the pause that stands for the learner."""
NUM_HOSTS = 2
REAL_WORKERS = 16
RIGHT = Score(value=1.0, outcome=Outcome.CORRECT, extracted="1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The measurements of a size."""

    driver_us_per_completion: float
    collector_us_per_completion: float
    driver_mb: float
    utilisation: float
    rate: float
    load_weights_ms: float


class NoReward(RewardPool):
    """Stands for a reward pool: counts the answers and finds all of them right."""

    def __init__(self) -> None:
        self.num_received = 0

    def submit(self, problem: Problem, answers: Sequence[Answer]) -> Scores:
        """Return the number of answers in place of a reference to their scores."""
        self.num_received += len(answers)
        return cast(Scores, len(answers))

    def discard(self, scores: Scores) -> None:
        """Do nothing."""

    def are_ready(self, scoring: Sequence[Scores]) -> bool:
        """Return True."""
        return True

    def collect(self, scores: Scores) -> tuple[Score, ...]:
        """Return the same score for all answers."""
        return (RIGHT,) * cast(int, scores)


class NoWeights:
    """A transport of versions that have no tensor."""

    def begin_stage(self) -> None:
        """Do nothing."""

    def publish(self, version: int, *, is_checked: bool) -> StoredVersion:
        """Return the version."""
        return StoredVersion(Weights(version=version, buckets=(), checksums={}))


class NoLearner(LearnerGroup):
    """Stands for a learner: publishes versions without learning."""

    def __init__(self) -> None:
        self._publisher = Publisher(NoWeights())


@dataclass(frozen=True, slots=True)
class RolloutsOnly:
    """The services with a learner and a reward that do nothing."""

    groups: ScoredRollouts
    learner: NoLearner


class Meter:
    """Reads the clocks of the driver, its collectors and the workers' slots."""

    def __init__(self, launcher: HostedLauncher | PlacedLauncher) -> None:
        self._launcher = launcher
        self._collectors: list[psutil.Process] = []

    def read(self) -> tuple[float, float, float, float]:
        """Return seconds: of the clock, of the driver's processor time, of the collectors' processor time, and of busy slots."""
        if not self._collectors:  # found at the end of a step, when they surely run
            children = psutil.Process().children(recursive=True)
            self._collectors = [process for process in children if "Collector" in " ".join(process.cmdline())]
        collectors = sum(sum(process.cpu_times()[:2]) for process in self._collectors)
        return time.monotonic(), time.process_time(), collectors, self._launcher.busy_s()


def main(arguments: Sequence[str]) -> None:
    """Print a row for each size, the cost of Ray's own calls, and the figures as JSON."""
    sizes = [int(argument) for argument in arguments] or list(SLOTS)
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init("local", num_cpus=REAL_WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    print(f"{'workers':<14}" + "".join(f"{name:>29}" for name in Figures.__slots__))
    figures: dict[str, dict[str, float]] = {}
    for num_workers in sizes:
        launcher = HostedLauncher(speed(num_workers), min(NUM_HOSTS, num_workers))
        figures[str(num_workers)] = report(str(num_workers), launcher, num_workers)
    in_processes = report(f"{REAL_WORKERS} processes", PlacedLauncher(speed(REAL_WORKERS)), REAL_WORKERS)
    bare = bare_us_per_message()
    print(f"bare streams of {REAL_WORKERS} processes: {bare:.0f} us of the driver for each message")
    ray.shutdown()
    print(json.dumps({"offered_per_s": OFFERED_PER_S, "sizes": figures, "ray": in_processes | {"bare_us_per_message": bare}}))


def settings(num_workers: int) -> RolloutConfig:
    """Return the configuration of a size."""
    return RolloutConfig(num_workers=num_workers, max_num_seqs=SLOTS[num_workers])


def speed(num_workers: int) -> Speed:
    """Return the speed of engines that generate OFFERED_PER_S completions a second together."""
    num_slots = num_workers * SLOTS[num_workers]
    return Speed(num_slots=SLOTS[num_workers], mean_tokens=MEAN_TOKENS, token_s=num_slots / OFFERED_PER_S / MEAN_TOKENS)


def report(name: str, launcher: HostedLauncher | PlacedLauncher, num_workers: int) -> dict[str, float]:
    """Measure a size, print its row and return its figures."""
    pool = RolloutPool(settings(num_workers), launcher)
    pool.wait_until_ready()
    try:
        measured = measure(pool, Meter(launcher), num_workers * SLOTS[num_workers])
        figures = {key: round(value, 3) for key, value in asdict(measured).items()}
    finally:
        pool.close()
        launcher.close()
    print(f"{name:<14}" + "".join(f"{value:>29,.2f}" for value in figures.values()), flush=True)
    return figures


def measure(pool: RolloutPool, meter: Meter, num_slots: int) -> Figures:
    """Return the cost of steps from the end of the first step to the end of the last."""
    num_problems = ROUNDS_PER_STEP * num_slots // NUM_COMPLETIONS
    num_steps = 1 + max(1, round(MIN_WINDOW_S * OFFERED_PER_S / (num_problems * NUM_COMPLETIONS)))
    stage = stage_of(num_steps + 1, num_problems)
    reward = NoReward()
    services = RolloutsOnly(ScoredRollouts(pool, reward), NoLearner())
    readings, loads = [], []
    with GroupStream(stage, services, StreamState()) as stream, ThreadPoolExecutor(1) as background:
        for step in range(num_steps):
            stream.generate(step)
            taken = stream.take(step)
            assert max(taken.versions_behind) <= 1
            stream.work_until(background.submit(time.sleep, LEARN_S))
            began = time.monotonic()
            pool.load_weights(services.learner.publish())
            loads.append(time.monotonic() - began)
            pool.take_spans(SPANS_S)
            readings.append((reward.num_received, *meter.read()))
    completions, seconds, driver_s, collector_s, busy_s = (last - first for first, last in zip(readings[0], readings[-1], strict=True))
    return Figures(
        driver_us_per_completion=1e6 * driver_s / completions,
        collector_us_per_completion=1e6 * collector_s / completions,
        driver_mb=psutil.Process().memory_info().rss / 1e6,
        utilisation=busy_s / (seconds * num_slots),
        rate=completions / seconds,
        load_weights_ms=1000 * median(loads),
    )


def stage_of(num_steps: int, num_problems: int) -> GrpoStage:
    """Return a stage of steps with the given number of problems, with a `max_staleness` of 1."""
    section = GrpoConfig(
        num_steps=num_steps,
        problems_per_step=num_problems,
        num_completions=NUM_COMPLETIONS,
        max_staleness=1,
        optimizer=Optimizer(learning_rate=1e-6),
    )
    problems = [
        Problem(id=str(number), question="How many?", images=(), answer="1", kind=AnswerKind.NUMBER)
        for number in range(num_steps * num_problems)
    ]
    return GrpoStage(
        section=section,
        problems=ItemStream([MixturePart(name="", items=problems)], 0),
        traces=(),
        max_tokens=LONGEST_OVER_MEAN * MEAN_TOKENS,
        seed=0,
        folder=Path(),
        checkpoint_every=num_steps,
    )


def bare_us_per_message() -> float:
    """Return the processor time of reading streams of real workers by Ray's calls alone."""
    num_completions = 200
    its_speed = Speed(num_slots=1, mean_tokens=MEAN_TOKENS, token_s=REAL_WORKERS / OFFERED_PER_S / MEAN_TOKENS)
    actors = [ray.remote(num_cpus=0)(SimulatedWorker).remote(its_speed) for _ in range(REAL_WORKERS)]
    ray.get([actor.ready.remote() for actor in actors])
    problem = Problem(id="bare", question="How many?", images=(), answer="1", kind=AnswerKind.NUMBER)
    sampling = Sampling(num_completions=num_completions, temperature=1.0, max_tokens=LONGEST_OVER_MEAN * MEAN_TOKENS, seed=0)
    began, num_received = time.process_time(), 0
    streams = [actor.generate.remote([problem], sampling) for actor in actors]
    while streams:
        ready, _ = ray.wait(streams, num_returns=1, fetch_local=False)
        for stream in ready:
            try:
                ray.get(next(stream))
                num_received += 1
            except StopIteration:
                streams.remove(stream)
    seconds = time.process_time() - began
    for actor in actors:
        ray.kill(actor)
    return 1e6 * seconds / num_received


if __name__ == "__main__":
    main(sys.argv[1:])
