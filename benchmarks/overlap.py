"""What generating ahead saves: seconds a GRPO step with `max_staleness` 0 and 1, beside those of its two halves.

    python -m benchmarks.overlap

The training loop takes real steps of `configs/tiny.yaml` from its untrained model, one engine and one rank with a core each, once
generating and learning in turns, once overlapping. Its answers are scored by their parity, so that hardly a group is flat. The halves are
generating with scoring, and updating with handing over the weights, as the steps in turns take them. `async_over_max` is the
overlapping step over the longer half: 1 where nothing is lost. The last line is one JSON object.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.step import stage_of
from ovt_ray.config import RunConfig
from ovt_ray.config_file import load_config
from ovt_ray.grpo import train_grpo
from ovt_ray.metrics import read_metrics
from ovt_ray.services import Services
from ovt_ray.stream_state import StreamState
from ovt_ray.track import Track
from ovt_ray.world import build_tiny_model, world_problems

NUM_STEPS = 12
WARM_UP = 3
ONE_CORE_EACH = ["rollout.cpus_per_worker=1", "learner.cpus_per_rank=1"]
REWARD = ["reward.parts=[{name: 'benchmarks.trivial_reward:score_parity'}]"]


def main() -> None:
    """Print both step times and the ratios."""
    config = load_config(Path("configs/tiny.yaml"), ONE_CORE_EACH + REWARD)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        build_tiny_model(model, config.seed)
        with Services(config, str(model)) as services:
            rows: dict[int, list[dict[str, float]]] = {0: [], 1: []}
            for max_staleness in (0, 1, 0, 1):
                rows[max_staleness] += step_rows(services, config, model, Path(folder), max_staleness)
    report(rows[0], rows[1])


def step_rows(services: Services, config: RunConfig, model: Path, folder: Path, max_staleness: int) -> list[dict[str, float]]:
    """Return the metrics of each step after the warm-up, with the seconds since the step before as `seconds_step`."""
    section = config.iterations[0].grpo.model_copy(update={"num_steps": NUM_STEPS, "max_staleness": max_staleness})
    problems = world_problems("train", NUM_STEPS * section.problems_per_step, config.seed, folder / "images")
    run = Path(tempfile.mkdtemp(dir=folder))
    stage = replace(stage_of(config, problems, run), section=section, checkpoint_every=NUM_STEPS)
    services.learner.begin(stage.for_learner(str(model)))
    services.rollout.load_weights(services.learner.publish())
    with Track(run, "iter1/grpo", NUM_STEPS, 0) as track:
        train_grpo(stage, services, track, StreamState(), rollout_is_exact=True)
    rows = read_metrics(run)
    return [
        dict(row.values) | {"seconds_step": row.time - before.time}
        for before, row in zip(rows[WARM_UP - 1 :], rows[WARM_UP:], strict=False)
    ]


def report(turns: list[dict[str, float]], overlapping: list[dict[str, float]]) -> None:
    """Print a table of medians, and the JSON line."""

    def seconds(rows: list[dict[str, float]], *names: str) -> float:
        return median(sum(row[name] for name in names) for row in rows)

    generate, update = seconds(turns, "seconds_generate", "seconds_score"), seconds(turns, "seconds_update", "seconds_sync")
    in_turns, overlapped = seconds(turns, "seconds_step"), seconds(overlapping, "seconds_step")
    print(f"\ngenerate and score {generate:.2f} s, update and hand over {update:.2f} s")
    print(f"step in turns {in_turns:.2f} s, overlapping {overlapped:.2f} s")
    figures = {
        "seconds_generate": generate,
        "seconds_update": update,
        "seconds_step_in_turns": in_turns,
        "seconds_step_overlapping": overlapped,
        "async_over_max": overlapped / max(generate, update),
        "speedup": in_turns / overlapped,
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
