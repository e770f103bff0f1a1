"""Measures the effect of stale answers: a GRPO stage from the same SFT model with `max_staleness` 0, 1 and 4.

    python -m benchmarks.staleness [SEED ...]

For each seed (default 1, 2, 3) the first iteration of `configs/tiny.yaml` makes its SFT model once. From it the GRPO stage runs with each
staleness, on the same problems with the same seeds. It runs with 0 twice, which must give the same weights bit for bit. Accuracy is greedy
on the config's held-out problems, with its 95 % Wilson interval.

The other columns are means over the stage's steps:
- the staleness of the answers in versions,
- the k3 estimate of the KL between rollout and learner,
- the 1 % and 99 % quantiles of policy over rollout, which the same weights compute with staleness 0,
- the effective share of the importance weights, and the entropy.
The last line is a JSON object.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from ovt_ray.core.config.file import load_config
from ovt_ray.core.config.run import RunConfig
from ovt_ray.data.tasks import Tasks, load_tasks
from ovt_ray.run.ledger import RunFolder
from ovt_ray.run.logs import show_logs
from ovt_ray.run.metrics import read_metrics
from ovt_ray.run.results import StageResult
from ovt_ray.run.statistics import wilson_interval
from ovt_ray.stages.base import first_model, run_base
from ovt_ray.stages.distil import run_distil
from ovt_ray.stages.grpo import run_grpo
from ovt_ray.stages.session import Session
from ovt_ray.stages.sft import run_sft

STALENESS = (0, 0, 1, 4)
"""Values of `max_staleness`, with 0 twice to compare the weights."""
FIGURES = ("staleness", "kl_rollout", "ratio_p01", "ratio_p99", "effective_share", "entropy")


@dataclass(frozen=True, slots=True, kw_only=True)
class StalenessOutcome:
    """The outcome of a GRPO stage."""

    seed: int
    max_staleness: int
    sft_accuracy: float
    result: StageResult
    figures: dict[str, float]
    """Mean of each figure over the steps."""
    weights: str
    """SHA-256 of the model's weights."""


def main(arguments: Sequence[str]) -> None:
    """Print a line for each stage, the table over all seeds, and the JSON object."""
    show_logs()
    seeds = [int(argument) for argument in arguments] or [1, 2, 3]
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [outcome for seed in seeds for outcome in outcomes_of(seed, Path(folder))]
    report(outcomes)


def outcomes_of(seed: int, runs: Path) -> list[StalenessOutcome]:
    """Return the outcomes of a seed's SFT model with each staleness. Services are started once."""
    config = load_config(Path("configs/tiny.yaml"), [f"seed={seed}", f"name=sft{seed}", f"runs_dir={runs}"])
    turn = config.iterations[0]
    assert turn.distil and turn.sft, "configs/tiny.yaml begins with traces"
    tasks = load_tasks(config.data, config.seed, runs / "images", config.problem_folder)
    with RunFolder(config) as folder, Session(config, folder, tasks, first_model(config, folder)) as first:
        base = run_base(first)
        traces = run_distil(first, 1, turn.distil)
        model = run_sft(first, 1, turn.sft, base=base, traces=traces)
        sft = folder.results()[-1]
        outcomes = []
        for attempt, max_staleness in enumerate(STALENESS):
            section = turn.grpo.model_copy(update={"max_staleness": max_staleness})
            named = config.model_copy(update={"name": f"seed{seed}-{attempt}", "iterations": [turn.model_copy(update={"grpo": section})]})
            outcome = grpo_outcome(named, tasks, first, model=model, traces=traces)
            outcomes.append(replace(outcome, sft_accuracy=sft.accuracy))
            print(f"seed {seed}, max_staleness {max_staleness}: {sft.accuracy:.1%} -> {outcome.result.accuracy:.1%}", flush=True)
        return outcomes


def grpo_outcome(config: RunConfig, tasks: Tasks, first: Session, *, model: str, traces: Path) -> StalenessOutcome:
    """Return the outcome of a config's GRPO stage, run on the services of another run's session."""
    with RunFolder(config) as folder:
        session = Session(config, folder, tasks, first_model(config, folder))
        session.services = first.services
        trained = Path(run_grpo(session, 1, config.iterations[0].grpo, model=model, traces=traces))
        rows = [row.values for row in read_metrics(folder.path)]
        return StalenessOutcome(
            seed=config.seed,
            max_staleness=config.iterations[0].grpo.max_staleness,
            sft_accuracy=0.0,
            result=folder.results()[-1],
            figures={name: fmean(row[name] for row in rows) for name in FIGURES},
            weights=hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest(),
        )


def report(outcomes: Sequence[StalenessOutcome]) -> None:
    """Print the table and the JSON object."""
    print(f"\n{'max_staleness':>13} {'accuracy by seed':<28} {'all seeds (95 %)':<24}" + "".join(f"{name:>17}" for name in FIGURES))
    for max_staleness in dict.fromkeys(STALENESS):
        own = [outcome for outcome in outcomes if outcome.max_staleness == max_staleness]
        once = list({outcome.seed: outcome for outcome in own}.values())
        num_problems = sum(outcome.result.num_problems for outcome in once)
        num_correct = round(sum(outcome.result.accuracy * outcome.result.num_problems for outcome in once))
        low, high = wilson_interval(num_correct, num_problems)
        by_seed = "  ".join(f"{outcome.result.accuracy:.1%}" for outcome in once)
        pooled = f"{num_correct / num_problems:.1%} ({low:.1%} - {high:.1%})"
        means = "".join(f"{fmean(outcome.figures[name] for outcome in once):>17.4g}" for name in FIGURES)
        print(f"{max_staleness:>13} {by_seed:<28} {pooled:<24}{means}")
    digests = {
        seed: {outcome.weights for outcome in outcomes if (outcome.seed, outcome.max_staleness) == (seed, 0)} for seed in seeds_of(outcomes)
    }
    same = all(len(found) == 1 for found in digests.values())
    print(f"weights of max_staleness 0 twice: {'the same' if same else 'DIFFERENT'}")
    print(json.dumps({"same_weights_twice": same, "stages": [asdict(outcome) for outcome in outcomes]}))


def seeds_of(outcomes: Sequence[StalenessOutcome]) -> list[int]:
    """Return the seeds in their order."""
    return list(dict.fromkeys(outcome.seed for outcome in outcomes))


if __name__ == "__main__":
    main(sys.argv[1:])
