"""Measures the cost of a GRPO step by phase, and the memory of each process.

    python -m benchmarks.step [CONFIG] [key=value ...]

Runs real steps of the config's first RL stage from its untrained model. Its completions run to their limit, so lengths do not depend on
luck. Scoring overlaps with generation, and its phase is only the wait afterwards. `benchmarks.rollout` compares generation with a bare vLLM
engine. The last line is a JSON object.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import psutil

from benchmarks.processes import RAYS_OWN, kind_of
from ovt_ray.core.config.file import load_config
from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.types import Problem, ScoredGroup, TrainSample
from ovt_ray.data.stream import ItemStream
from ovt_ray.rl.checkpoint import StreamState
from ovt_ray.rl.stage import GrpoStage, learner_stage
from ovt_ray.rl.stream import GroupStream
from ovt_ray.services import Services
from ovt_ray.world import build_tiny_model, world_problems

NUM_STEPS = 6
PHASES = ("generate", "score", "update", "sync")


def main(arguments: Sequence[str]) -> None:
    """Print a table of phases and memory, and the figures as JSON."""
    path, overrides = (arguments[0], arguments[1:]) if arguments else ("configs/tiny.yaml", [])
    config = load_config(Path(path), list(overrides))
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        build_tiny_model(model, config.seed)
        section = config.iterations[0].grpo
        problems = world_problems("train", section.problems_per_step, config.seed, Path(folder) / "images")
        seconds, tokens_per_s, memory = measure(config, str(model), problems)
    report(seconds, tokens_per_s, memory)


def measure(config: RunConfig, model: str, problems: Sequence[Problem]) -> tuple[dict[str, float], float, dict[str, float]]:
    """Return the median seconds of each phase, the pool's tokens per second, and each process's peak memory in MB."""
    steps: list[dict[str, float]] = []
    rates = []
    with Services(config, model) as services:
        begin(services, config, model, num_updates=NUM_STEPS + 1)
        for step in range(NUM_STEPS + 1):
            seconds, groups = timed_step(services, config, problems, step)
            steps.append(seconds)
            rates.append(num_completion_tokens(groups) / seconds["generate"])
        memory = peak_memory_mb()
    return {name: median(step[name] for step in steps[1:]) for name in PHASES}, median(rates[1:]), memory


def begin(services: Services, config: RunConfig, model: str, *, num_updates: int) -> None:
    """Load the model for the config's first RL stage, and wait until every service can take a step."""
    section = config.iterations[0].grpo
    services.learner.begin(learner_stage(section, model, num_updates))
    services.rollout.wait_until_ready()


def timed_step(services: Services, config: RunConfig, problems: Sequence[Problem], step: int) -> tuple[dict[str, float], list[ScoredGroup]]:
    """Take one GRPO step and return the seconds of each phase, and its groups. Advantages alternate 1 and -1."""
    clock = [time.monotonic()]
    with GroupStream(stage_of(config, problems, Path()), services, StreamState(step=step)) as stream:
        stream.generate(step)
        clock.append(time.monotonic())
        groups = stream.take(step).groups
    clock.append(time.monotonic())
    services.learner.update(
        [
            TrainSample(
                problem=scored.group.problem,
                prompt_ids=scored.group.prompt_ids,
                completion_ids=completion.token_ids,
                rollout_logprobs=completion.rollout_logprobs,
                advantage=1.0 if index % 2 else -1.0,
            )
            for scored in groups
            for index, completion in enumerate(scored.group.completions)
        ]
    )
    clock.append(time.monotonic())
    services.rollout.load_weights(services.learner.publish())
    clock.append(time.monotonic())
    return {name: after - before for name, before, after in zip(PHASES, clock, clock[1:], strict=False)}, groups


def stage_of(config: RunConfig, problems: Sequence[Problem], folder: Path) -> GrpoStage:
    """Return the config's first RL stage on some problems, without traces or checkpoints."""
    section = config.iterations[0].grpo
    return GrpoStage(
        section=section,
        problems=ItemStream.of(problems, config.seed),
        traces=[],
        max_tokens=config.max_completion_tokens,
        seed=config.seed,
        folder=folder,
        checkpoint_every=section.num_steps,
    )


def num_completion_tokens(groups: Sequence[ScoredGroup]) -> int:
    """Return the token count of all completions together."""
    return sum(len(completion.token_ids) for scored in groups for completion in scored.group.completions)


def peak_memory_mb() -> dict[str, float]:
    """Return the peak resident size so far of this process and of each process of the services."""
    peaks = {"driver": _peak_mb(psutil.Process())}
    for process in psutil.Process().children(recursive=True):
        if (kind := kind_of(process)) not in RAYS_OWN:
            peaks[f"{kind} {process.pid}"] = _peak_mb(process)
    return peaks


def _peak_mb(process: psutil.Process) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def report(seconds: dict[str, float], tokens_per_s: float, memory: dict[str, float]) -> None:
    """Print the table and the JSON line."""
    total = sum(seconds.values())
    print(f"\n{'phase':<12}{'seconds':>9}{'share':>8}")
    for name in PHASES:
        print(f"{name:<12}{seconds[name]:>9.3f}{seconds[name] / total:>8.0%}")
    print(f"{'step':<12}{total:>9.3f}\n\n{tokens_per_s:,.0f} tokens/s\n\npeak memory, MB")
    for name, peak in memory.items():
        print(f"  {name:<24}{peak:>8.0f}")
    figures = {f"seconds_{name}": round(value, 4) for name, value in seconds.items()}
    figures |= {
        "seconds_per_step": round(total, 4),
        "tokens_per_s": round(tokens_per_s, 1),
        "peak_memory_mb": round(sum(memory.values()), 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
