"""Measures the embedded world's tiny teachers on pictures that neither was trained on.

    python -m benchmarks.teachers [key=value ...]

Compares the captioner's captions with the pictures' contents, and prints statistics of the reasoner's chains over them. The last line is a
JSON object.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean

from ovt_ray.cluster import cluster
from ovt_ray.core.config.file import load_config
from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.types import Outcome
from ovt_ray.distillation.chains import Chains
from ovt_ray.distillation.teachers import Teachers
from ovt_ray.run.logs import show_logs
from ovt_ray.world import world_problems
from ovt_ray.world.questions import KINDS
from ovt_ray.world.teacher import picture_caption
from reward.pool import RewardPool

NUM_PROBLEMS = 800
NUM_CHAINS = 4
SEVERAL_STEPS = {kind.name for kind in KINDS if kind.takes_short_cuts}
SHORT_CUT = "<think> maybe"


def main(overrides: Sequence[str]) -> None:
    """Print the table and the JSON line."""
    show_logs()
    config = load_config(Path("configs/tiny.yaml"), list(overrides))
    with tempfile.TemporaryDirectory() as folder, cluster(config), closing(RewardPool(config.reward)) as reward:
        figures = measure(config, reward, Path(folder))
    for key, value in figures.items():
        print(f"{key:<60}{value:>8.3f}")
    print(json.dumps({key: round(value, 4) for key, value in figures.items()}))


def measure(config: RunConfig, reward: RewardPool, folder: Path) -> dict[str, float]:
    """Return the figures of both teachers on pictures of the test split, half of the questions of a hard kind."""
    problems = world_problems("test", NUM_PROBLEMS, config.seed, folder / "images", hard=True)
    true = {problem.id: picture_caption(problem) for problem in problems}
    figures, captions = {}, true
    for name, temperature in (("greedy", 0.0), ("as a run samples them", config.captioner.temperature)):
        captioner = config.captioner.model_copy(update={"temperature": temperature})
        teachers = Teachers(captioner=captioner, reasoner=config.reasoner, rollout=config.rollout, seed=config.seed)
        captions = teachers.captions(problems, folder / f"{temperature}.jsonl", name)
        figures[f"captions exact, {name}"] = fmean(captions[problem.id] == true[problem.id] for problem in problems)
    return figures | chain_figures(list(teachers.chains(reward, problems, captions, NUM_CHAINS)))


def chain_figures(chains: Sequence[Chains]) -> dict[str, float]:
    """Return the statistics of chains: their kinds, their accuracy, and the kind of the shortest correct chain of each problem."""
    rows = [(one.problem, text, score.outcome) for one in chains for text, score in zip(one.responses, one.scores, strict=True)]
    several = [row for row in rows if row[0].source in SEVERAL_STEPS]
    guesses = [row for row in several if row[1].startswith(SHORT_CUT)]
    careful = [row for row in rows if not row[1].startswith(SHORT_CUT)]
    kept = [shortest for one in chains if one.problem.source in SEVERAL_STEPS if (shortest := shortest_correct(one))]
    return {
        "correct": fmean(outcome is Outcome.CORRECT for *_, outcome in rows),
        "unparseable": fmean(outcome is Outcome.UNPARSEABLE for *_, outcome in rows),
        "short cuts, several steps": len(guesses) / len(several),
        "short cuts, one step": fmean(text.startswith(SHORT_CUT) for problem, text, _ in rows if problem.source not in SEVERAL_STEPS),
        "correct short cuts, several steps": fmean(outcome is Outcome.CORRECT for *_, outcome in guesses),
        "correct careful chains": fmean(outcome is Outcome.CORRECT for *_, outcome in careful),
        "reflections among careful chains": fmean("Wait," in text for _, text, _ in careful),
        "words": fmean(len(text.split()) for _, text, _ in rows),
        "short cuts among the shortest correct, several steps": fmean(text.startswith(SHORT_CUT) for text in kept),
        "problems with a correct chain": fmean(shortest_correct(one) is not None for one in chains),
    }


def shortest_correct(chains: Chains) -> str | None:
    """Return the correct response with the fewest words; None if no response is correct."""
    correct = [text for text, score in zip(chains.responses, chains.scores, strict=True) if score.outcome is Outcome.CORRECT]
    return min(correct, key=lambda text: len(text.split()), default=None)


if __name__ == "__main__":
    main(sys.argv[1:])
