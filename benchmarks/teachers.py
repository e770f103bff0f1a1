"""How good the embedded world's tiny teachers are, on pictures that neither was trained on.

    python -m benchmarks.teachers [key=value ...]

The captioner's captions beside what the pictures hold, greedily and as a run samples them, and the statistics of the reasoner's chains
over true and over sampled captions. The last line is one JSON object.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from ovt_ray.chains import Chains
from ovt_ray.config_file import load_config
from ovt_ray.services import connect
from ovt_ray.teachers import Teachers
from ovt_ray.types import Outcome
from ovt_ray.world import world_problems
from ovt_ray.world.questions import KINDS
from ovt_ray.world.teacher import picture_caption
from reward.pool import RewardPool

NUM_PROBLEMS = 1000
NUM_CHAINS = 4
SEVERAL_STEPS = {kind.name for kind in KINDS if kind.takes_short_cuts}
SHORT_CUT = "<think> maybe"


def main(overrides: Sequence[str]) -> None:
    """Print the table and the JSON line."""
    config = load_config(Path("configs/tiny.yaml"), list(overrides))
    figures: dict[str, float] = {}
    connect(config)
    reward = RewardPool(config.reward)
    with tempfile.TemporaryDirectory() as folder:
        problems = world_problems("test", NUM_PROBLEMS, config.seed, Path(folder) / "images", hard=True)
        true = {problem.id: picture_caption(problem) for problem in problems}
        for name, temperature in (("greedy", 0.0), ("sampled", config.captioner.temperature)):
            captioner = config.captioner.model_copy(update={"temperature": temperature})
            teachers = Teachers(captioner=captioner, reasoner=config.reasoner, rollout=config.rollout, seed=config.seed)
            captions = teachers.captions(problems, Path(folder) / f"{name}.jsonl", name)
            figures[f"captions_exact_{name}"] = fmean(captions[problem.id] == true[problem.id] for problem in problems)
        for name, words in (("true", true), ("sampled", captions)):
            chains = list(teachers.chains(reward, problems, words, NUM_CHAINS))
            figures |= {f"{key}, {name} captions": value for key, value in chain_figures(chains).items()}
    reward.close()
    for key, value in figures.items():
        print(f"{key:<60}{value:>8.3f}")
    print(json.dumps({key: round(value, 4) for key, value in figures.items()}))


def chain_figures(chains: Sequence[Chains]) -> dict[str, float]:
    """Return the statistics of chains: what they are, how often they are right, and what the shortest correct one of each problem is."""
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
    """Return the correct response of the fewest words, None if there is none."""
    correct = [text for text, score in zip(chains.responses, chains.scores, strict=True) if score.outcome is Outcome.CORRECT]
    return min(correct, key=lambda text: len(text.split()), default=None)


if __name__ == "__main__":
    main(sys.argv[1:])
