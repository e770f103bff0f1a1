"""How the scores of a group are kept together while it is generated."""

from ovt_ray.services import Scoring, of_last_generation


def scoring(*indices: int, scores: str) -> Scoring:
    return Scoring(indices=indices, scores=scores)  # type: ignore[arg-type]


def test_scores_of_what_a_dead_worker_had_generated_are_told_from_those_of_its_successor() -> None:
    parts = [scoring(0, 2, scores="dead"), scoring(1, scores="dead too"), scoring(1, 2, 3, scores="alive"), scoring(0, scores="alive too")]
    assert of_last_generation(parts, 4) == (parts[2:], parts[:2])
    assert of_last_generation(parts[2:], 4) == (parts[2:], [])
