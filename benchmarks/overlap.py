"""Measures the gain from generating ahead: seconds per GRPO step with `max_staleness` 0 and 1, and of the step's two halves.

    python -m benchmarks.overlap [FOLDER]

The training loop takes real steps of `configs/tiny.yaml` from its untrained model. An engine and a rank have a core each. They work
alternately (`max_staleness` 0), then overlapping (1). The halves are generating with scoring, and updating with handing over the weights,
in the alternating steps. `async_over_max` is the overlapping step over the longer half, which is 1 without any loss.

There are two rounds. In the first, parity decides an answer's score, so that hardly any group has zero variance and both halves take about
equally long. In the second, all answers to half of the problems are right (`half_flat`). Their groups are generated and not learnt from, as
in a real run, where generating takes the larger part of a step.

All processes of a job need a processor, not only engine and rank. The table therefore shows the processor time of each. Their sum over the
number of cores is the shortest possible step on this machine. `floor_over_max` is `async_over_max` at that floor, and 1 with enough cores.
FOLDER keeps the timelines. The last line is a JSON object.
"""

import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import psutil

from benchmarks.processes import kind_of
from benchmarks.step import stage_of
from ovt_ray.core.config.file import load_config
from ovt_ray.core.config.run import RunConfig
from ovt_ray.grpo import train_grpo
from ovt_ray.rl.checkpoint import StreamState
from ovt_ray.rl.stage import GrpoStage
from ovt_ray.run.logs import show_logs
from ovt_ray.run.metrics import read_metrics
from ovt_ray.run.recorder import Recorder
from ovt_ray.services import Services
from ovt_ray.world import build_tiny_model, world_problems

NUM_STEPS = 12
WARM_UP = 3
ONE_CORE_EACH = ["rollout.cpus_per_worker=1", "learner.cpus_per_rank=1"]
REWARDS = {"": "score_parity", "half_flat_": "score_parity_of_half"}
"""Reward of each round, by the prefix of its figures' names."""


def main(arguments: Sequence[str]) -> None:
    """Print both step times, the ratios and each process's processor time, for each reward."""
    show_logs()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(arguments[0] if arguments else scratch)
        model = Path(scratch) / "model"
        for prefix, reward in REWARDS.items():
            config = load_config(
                Path("configs/tiny.yaml"), [*ONE_CORE_EACH, f"reward.parts=[{{name: 'benchmarks.trivial_reward:{reward}'}}]"]
            )
            build_tiny_model(model, config.seed)
            figures |= {prefix + name: value for name, value in measure(config, model, folder / reward).items()}
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def measure(config: RunConfig, model: Path, folder: Path) -> dict[str, float]:
    """Print and return the figures of alternating and of overlapping steps."""
    rows: dict[int, list[dict[str, float]]] = {0: [], 1: []}
    overlapping_cpu: dict[str, float] = defaultdict(float)
    with Services(config, str(model)) as services:
        for turn, max_staleness in enumerate((0, 1, 0, 1)):
            run = folder / f"{turn}-staleness-{max_staleness}"
            stage = begun_stage(services, config, model, run=run, max_staleness=max_staleness)
            before = cpu_seconds()
            rows[max_staleness] += step_rows(services, stage, run)
            for name, spent in cpu_seconds().items() if max_staleness else ():
                overlapping_cpu[name] += (spent - before[name]) / (2 * NUM_STEPS)
    return report(rows[0], rows[1], overlapping_cpu)


def begun_stage(services: Services, config: RunConfig, model: Path, *, run: Path, max_staleness: int) -> GrpoStage:
    """Return a stage whose model the learner and the engine have."""
    section = config.iterations[0].grpo.model_copy(update={"num_steps": NUM_STEPS, "max_staleness": max_staleness})
    problems = world_problems("train", NUM_STEPS * section.problems_per_step, config.seed, run / "images")
    stage = replace(stage_of(config, problems, run), section=section, checkpoint_every=NUM_STEPS)
    services.learner.begin(stage.for_learner(str(model)))
    services.rollout.load_weights(services.learner.publish())
    return stage


def step_rows(services: Services, stage: GrpoStage, run: Path) -> list[dict[str, float]]:
    """Return the metrics of each step after the warm-up, with the seconds since the previous step as `seconds_step`."""
    with Recorder(run, "iter1/grpo", num_steps=NUM_STEPS, first_step=0, take_spans=services.take_spans) as recorder:
        train_grpo(stage, services, recorder, StreamState(rollout_is_exact=True))
    rows = read_metrics(run)
    return [
        dict(row.values) | {"seconds_step": row.time - before.time}
        for before, row in zip(rows[WARM_UP - 1 :], rows[WARM_UP:], strict=False)
    ]


def cpu_seconds() -> dict[str, float]:
    """Return the processor time of the job so far, by kind of process."""
    seconds = defaultdict(float, {"driver": sum(psutil.Process().cpu_times()[:2])})
    for process in psutil.Process().children(recursive=True):
        seconds[kind_of(process)] += sum(process.cpu_times()[:2])
    return seconds


def report(turns: list[dict[str, float]], overlapping: list[dict[str, float]], cpu: dict[str, float]) -> dict[str, float]:
    """Print a table of medians and each process's time in an overlapping step, and return the figures."""

    def middle(rows: list[dict[str, float]], *names: str) -> float:
        return median(sum(row[name] for name in names) for row in rows)

    generate, update = middle(turns, "seconds_generate", "seconds_score"), middle(turns, "seconds_update", "seconds_sync")
    in_turns, overlapped, longer = middle(turns, "seconds_step"), middle(overlapping, "seconds_step"), max(generate, update)
    num_cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    floor = max(longer, sum(cpu.values()) / num_cores)
    print(f"\ngenerate and score {generate:.2f} s, update and hand over {update:.2f} s")
    print(f"step in turns {in_turns:.2f} s, overlapping {overlapped:.2f} s; load average {load:.1f}")
    print(f"\nprocessor seconds of an overlapping step, {num_cores} cores")
    for name, spent in sorted(cpu.items(), key=lambda item: -item[1]):
        print(f"  {name:<16}{spent:>6.2f}")
    print(f"  {'all':<16}{sum(cpu.values()):>6.2f}")
    figures = {
        "seconds_generate": generate,
        "seconds_update": update,
        "seconds_step_in_turns": in_turns,
        "seconds_step_overlapping": overlapped,
        "async_over_max": overlapped / longer,
        "floor_over_max": floor / longer,
        "async_over_floor": overlapped / floor,
        "speedup": in_turns / overlapped,
        "rollout_busy": middle(overlapping, "rollout_busy"),
        "learner_busy": middle(overlapping, "learner_busy"),
        "num_cores": num_cores,
        "load_average": load,
    }
    return figures | {f"cpu_seconds_{name.replace(' ', '_')}": spent for name, spent in cpu.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
