"""Distillation: ask a source for k reasoning chains per problem, keep those whose answer verifies, choose one.

The rules are the paper's (arXiv 2503.17352, section 3): reflections are cut off with the final answer kept, long chains
are dropped, and of the correct ones the shortest is taken.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from ovt_ray.config import DistilConfig
from ovt_ray.files import read_json_lines, write_json_atomically, write_json_lines_atomically
from ovt_ray.order import stable_seed
from ovt_ray.problem_rows import to_problem
from ovt_ray.problems import problem_row
from ovt_ray.services import Services
from ovt_ray.types import Outcome, Problem, Sampling, Score, Trace

REFLECTION = re.compile(r"\b(?:But wait|But the question|But hold on|Wait|Hold on|Alternatively|Let me double-check)\b")
"""Where a chain starts to doubt itself; the paper cuts there."""


class Captioner(Protocol):
    """Sees images and describes them."""

    def describe(self, problems: Sequence[Problem]) -> list[str]:
        """Return one description per problem, in order."""


class Reasoner(Protocol):
    """Sees text only and reasons to an answer."""

    def reason(self, problems: Sequence[Problem], captions: Sequence[str], num_chains: int) -> list[list[str]]:
        """Return `num_chains` responses per problem, in order; of a problem only its text may be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chains:
    """The responses of a source to one problem, and their verdicts."""

    problem: Problem
    responses: tuple[str, ...]
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilReport:
    """How many were asked, answered, correct and kept, and what dropped the others."""

    num_problems: int
    num_responses: int
    num_correct: int
    num_unparseable: int
    num_unscorable: int
    num_thoughtless: int
    """Correct responses with nothing between the think tags, after reflections were cut."""
    num_too_long: int
    """Correct responses of more than `max_words` words, after reflections were cut."""
    num_reflections_cut: int
    num_traces: int
    """Problems for which a trace was chosen."""


def chains_by_policy(services: Services, problems: Sequence[Problem], section: DistilConfig, max_tokens: int, seed: int) -> list[Chains]:
    """Return the scored chains of the model that the rollout workers serve."""
    sampling = Sampling(
        num_completions=section.num_chains,
        temperature=section.temperature,
        max_tokens=max_tokens,
        seed=stable_seed(seed, "distil"),
    )
    return [
        Chains(
            problem=scored.group.problem, responses=tuple(completion.text for completion in scored.group.completions), scores=scored.scores
        )
        for scored in services.scores(services.generate(problems, sampling))
    ]


def chains_by_caption(
    services: Services, captioner: Captioner, reasoner: Reasoner, problems: Sequence[Problem], section: DistilConfig
) -> list[Chains]:
    """Return the scored chains of a text-only reasoner that is told what a captioner saw."""
    chains = reasoner.reason(problems, captioner.describe(problems), section.num_chains)
    return list(_scored(services, zip(problems, chains, strict=True)))


def chains_by_dataset(services: Services, problems: Sequence[Problem]) -> list[Chains]:
    """Return the worked solutions that came with the problems as scored chains, one each; a problem without one has none."""
    responses = [
        (problem, [f"<think> {problem.solution} </think> <answer> {problem.answer} </answer>"] if problem.solution else [])
        for problem in problems
    ]
    return list(_scored(services, responses))


def _scored(services: Services, answered: Iterable[tuple[Problem, Sequence[str]]]) -> Iterator[Chains]:
    submitted = [(problem, texts, services.reward.submit_texts(problem, tuple(texts))) for problem, texts in answered]
    for problem, texts, ref in submitted:
        yield Chains(problem=problem, responses=tuple(texts), scores=services.reward.collect(ref))


def cut_reflection(response: str) -> str:
    """Return the response with its thinking cut at the first reflection and its final answer kept."""
    thinking, closing, rest = response.partition("</think>")
    found = REFLECTION.search(thinking)
    if not found or not closing:
        return response
    return f"{thinking[: found.start()].rstrip()} {closing}{rest}"


def select(chains: Sequence[Chains], max_words: int) -> tuple[list[Trace], DistilReport]:
    """Return at most one trace per problem, the shortest correct one in words, and the count of everything else."""
    scores = [score for chain in chains for score in chain.scores]
    traces, num_thoughtless, num_too_long, num_cut = [], 0, 0, 0
    for chain in chains:
        correct = [text for text, score in zip(chain.responses, chain.scores, strict=True) if score.outcome is Outcome.CORRECT]
        cut = [cut_reflection(text) for text in correct]
        num_cut += sum(after != before for after, before in zip(cut, correct, strict=True))
        reasoned = [text for text in cut if text.partition("</think>")[0].removeprefix("<think>").strip()]
        num_thoughtless += len(cut) - len(reasoned)
        short = [text for text in reasoned if len(text.split()) <= max_words]
        num_too_long += len(reasoned) - len(short)
        if short:
            traces.append(Trace(problem=chain.problem, response=min(short, key=lambda text: len(text.split()))))
    outcomes = [score.outcome for score in scores]
    return traces, DistilReport(
        num_problems=len(chains),
        num_responses=len(scores),
        num_correct=outcomes.count(Outcome.CORRECT),
        num_unparseable=outcomes.count(Outcome.UNPARSEABLE),
        num_unscorable=outcomes.count(Outcome.UNSCORABLE),
        num_thoughtless=num_thoughtless,
        num_too_long=num_too_long,
        num_reflections_cut=num_cut,
        num_traces=len(traces),
    )


def write_traces(folder: Path, traces: Sequence[Trace], report: DistilReport) -> Path:
    """Write `traces.jsonl` and `report.json` and return the former's path."""
    path = folder / "traces.jsonl"
    write_json_lines_atomically(path, [{**problem_row(trace.problem, folder), "response": trace.response} for trace in traces])
    write_json_atomically(folder / "report.json", asdict(report))
    return path


def read_traces(path: Path) -> list[Trace]:
    """Return the traces that `write_traces` wrote."""
    return [Trace(response=row.pop("response"), problem=to_problem(row, path.parent)) for row in read_json_lines(path)]
