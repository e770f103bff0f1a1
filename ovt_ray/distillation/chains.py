"""Distillation: a source writes k reasoning chains per problem, and each chain is verified.

A source yields the chains of its problems in any order, as they become ready. They are put on the disk as they arrive, so that an
interrupted stage requests only the rest.
"""

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter

from ovt_ray.core.config.stages import DistilConfig
from ovt_ray.core.files import append_json_lines, drop_torn_end, read_json_lines
from ovt_ray.core.seeds import stable_seed
from ovt_ray.core.types import Outcome, Problem, Sampling, Score
from ovt_ray.rl.scored_rollouts import ScoredRollouts
from ovt_ray.run.progress import Progress

ROWS_AT_ONCE = 16
"""Number of problems whose chains are put on the disk together."""
SCORE = TypeAdapter(Score)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chains:
    """The responses of a source to a problem, and their scores."""

    problem: Problem
    responses: tuple[str, ...]
    scores: tuple[Score, ...]
    num_tokens: int = 0
    """Token count that the rollout workers sampled for the responses; 0 for responses of another author."""
    caption: str | None = None
    """Caption of the images: None if the source needs no caption, empty if the captioner wrote nothing."""


class Verifier(Protocol):
    """The part of the reward pool that a source of texts uses."""

    def score_texts(self, answered: Iterable[tuple[Problem, Sequence[str]]]) -> Iterator[tuple[Problem, Sequence[str], tuple[Score, ...]]]:
        """Yield problems with their texts and a score per text, in order, each as soon as it is scored."""


def chains_by_policy(
    groups: ScoredRollouts, problems: Sequence[Problem], section: DistilConfig, *, max_tokens: int, seed: int
) -> Generator[Chains]:
    """Yield the scored chains of the model that the rollout workers serve."""
    sampling = Sampling(
        num_completions=section.num_chains,
        temperature=section.temperature,
        max_tokens=max_tokens,
        seed=stable_seed(seed, "distil"),
    )
    for scored in groups.answers(problems, sampling):
        completions = scored.group.completions
        yield Chains(
            problem=scored.group.problem,
            responses=tuple(completion.text for completion in completions),
            scores=scored.scores,
            num_tokens=sum(len(completion.token_ids) for completion in completions),
        )


def chains_by_dataset(verifier: Verifier, problems: Sequence[Problem]) -> Generator[Chains]:
    """Yield the worked solutions of the problems as scored chains. A problem without a solution has no chain.

    A solution that is a whole response, with an `<answer>` of its own, stays unchanged. Any other solution gets the tags of the format and
    the gold answer.
    """
    for problem, texts, scores in verifier.score_texts((problem, _worked(problem)) for problem in problems):
        yield Chains(problem=problem, responses=tuple(texts), scores=scores)


def _worked(problem: Problem) -> list[str]:
    if "</think>" in problem.solution and "<answer>" in problem.solution:
        return [problem.solution]
    return [f"<think> {problem.solution} </think> <answer> {problem.answer} </answer>"] if problem.solution else []


def read_chains(path: Path, problems: Sequence[Problem]) -> dict[str, Chains]:
    """Return the chains that `keep_chains` wrote in an interrupted stage, by the id of their problem."""
    drop_torn_end(path)
    problem_of = {problem.id: problem for problem in problems}
    rows = read_json_lines(path)
    return {row["id"]: _from_row(problem_of[row["id"]], row) for row in rows if row["id"] in problem_of}


def keep_chains(path: Path, chains: Iterable[Chains], stage: str, *, num_before: int, num_problems: int) -> list[Chains]:
    """Return all chains once they are on the disk, and show the progress. `num_before` of `num_problems` were there before.

    If the source raises, the chains so far are on the disk too, except for problems without a response at the end. The source may already
    have failed at these, so they are requested again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kept: list[Chains] = []
    num_written, num_sure, num_correct, num_scored, num_tokens, began = 0, 0, 0, 0, 0, time.monotonic()
    try:
        with Progress(stage, num_problems, first_step=num_before) as progress:
            for one in chains:
                kept.append(one)
                num_scored += len(one.scores)
                num_correct += sum(score.outcome is Outcome.CORRECT for score in one.scores)
                num_tokens += one.num_tokens
                figures = {"accuracy": num_correct / max(1, num_scored)}
                if num_tokens:
                    figures["tokens_per_s"] = num_tokens / (time.monotonic() - began)
                progress.step(num_before + len(kept) - 1, figures)
                num_sure = len(kept) if one.responses else num_sure
                if num_sure - num_written >= ROWS_AT_ONCE:
                    rows, num_written = kept[num_written:num_sure], num_sure  # never retry a failed write: it may have left half a line
                    append_json_lines(path, map(_row, rows))
        num_sure = len(kept)
    finally:
        append_json_lines(path, map(_row, kept[num_written:num_sure]))
    return kept


def _row(chains: Chains) -> dict[str, Any]:
    scores = [asdict(score) for score in chains.scores]
    return {"id": chains.problem.id, "caption": chains.caption, "responses": chains.responses, "scores": scores}


def _from_row(problem: Problem, row: dict[str, Any]) -> Chains:
    scores = tuple(map(SCORE.validate_python, row["scores"]))
    return Chains(problem=problem, responses=tuple(row["responses"]), scores=scores, caption=row["caption"])
