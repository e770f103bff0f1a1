"""How the scores of a group are kept together while it is generated, and where services find a place."""

import subprocess
import sys

from ovt_ray.rl.scored_rollouts import Scoring, of_last_generation


def scoring(*indices: int, scores: str) -> Scoring:
    return Scoring(indices=indices, scores=scores)  # type: ignore[arg-type]


def test_scores_of_what_a_dead_worker_had_generated_are_told_from_those_of_its_successor() -> None:
    parts = [scoring(0, 2, scores="dead"), scoring(1, scores="dead too"), scoring(1, 2, 3, scores="alive"), scoring(0, scores="alive too")]
    assert of_last_generation(parts, 4) == (parts[2:], parts[:2])
    assert of_last_generation(parts[2:], 4) == (parts[2:], [])


def test_a_rank_and_an_engine_with_shares_of_a_gpu_fit_on_one() -> None:
    command = [sys.executable, "-m", "tests.actors.shared_gpu"]
    answered = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    assert answered.stdout.splitlines()[-1] == "[[0], [0]]"
