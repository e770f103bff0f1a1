"""From chains to traces: filters drop correct chains that are not worth learning from, and a rule chooses among the others.

The defaults are the rules of the paper (arXiv 2503.17352, section 3). A reflection is cut off, and its final answer is kept. A long chain
is dropped. The shortest correct chain of a problem is taken. docs/distillation.md describes all rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovt_ray.core.config.stages import DistilConfig
from ovt_ray.core.errors import DataError
from ovt_ray.core.files import read_json_lines, write_json_lines_atomically
from ovt_ray.core.types import Outcome, Problem, Trace
from ovt_ray.data.rows import problem_row, stored_problem
from ovt_ray.distillation.accounts import Accounts, DistilReport, Drop, write_accounts
from ovt_ray.distillation.chains import Chains
from ovt_ray.distillation.contamination import EvaluationSet
from ovt_ray.distillation.filters import Candidate, Context, cut_reflection, explain
from ovt_ray.distillation.selection import Duplicates, Quota, ranked


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The traces of a stage, and the fates of all other chains."""

    traces: tuple[Trace, ...]
    drops: tuple[Drop, ...]
    report: DistilReport


def select(chains: Sequence[Chains], section: DistilConfig, evaluation: Sequence[Problem], seed: int) -> Selection:
    """Return the traces in the order of their problems. The same arguments always give the same traces.

    `evaluation` holds the problems that the run is measured on. The rule `random` draws with `seed`.
    """
    accounts, traces = Accounts(), list[Trace]()
    context = Context(rules=section.filters, evaluation=EvaluationSet(evaluation))
    passed = [_passed(answered, section.num_asked, context, accounts) for answered in chains]
    duplicates = Duplicates([candidate for candidates in passed for candidate in candidates], section.filters.max_similarity)
    quota = Quota(section.per_source)
    for candidates in passed:
        num_before = len(traces)
        for candidate in (choices := ranked(section.select, candidates, seed)):
            if section.select != "all" and len(traces) - num_before == section.traces_per_problem:
                accounts.count(candidate.problem, "not_selected")
            elif reason := duplicates.original(candidate):
                accounts.drop(candidate, "duplicate", reason)
            elif reason := quota.refusal(candidate.problem):
                accounts.drop(candidate, "per_source", reason)
            else:
                duplicates.take(candidate)
                quota.take(candidate.problem)
                accounts.count(candidate.problem, "trace")
                traces.append(Trace(problem=candidate.problem, response=candidate.response))
        if candidates:
            accounts.count(candidates[0].problem, "not_selected", len(candidates) - len(choices))
    return Selection(traces=tuple(traces), drops=tuple(accounts.drops), report=accounts.report(len(chains)))


def write_traces(folder: Path, selection: Selection) -> Path:
    """Write `traces.jsonl`, `report.json` and `dropped.jsonl`; return the path of `traces.jsonl`."""
    path = folder / "traces.jsonl"
    rows = [{**problem_row(trace.problem, folder), "response": trace.response} for trace in selection.traces]
    write_json_lines_atomically(path, rows)
    write_accounts(folder, selection.report, selection.drops)
    return path


def read_traces(path: Path) -> list[Trace]:
    """Return the traces that `write_traces` wrote. Raises DataError with the number of a line that holds no trace."""
    return [_trace(f"{path} line {number}", row, path.parent) for number, row in enumerate(read_json_lines(path), start=1)]


def _trace(place: str, row: object, folder: Path) -> Trace:
    if not isinstance(row, dict) or not isinstance(response := row.pop("response", None), str):
        raise DataError(f"{place}: must be an object with a 'response', as a run's traces.jsonl has them")
    try:
        return Trace(response=response, problem=stored_problem(row, folder))
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


def _passed(chains: Chains, num_asked: int, context: Context, accounts: Accounts) -> list[Candidate]:
    """Return the correct chains of a problem that pass every filter; all others are counted."""
    accounts.count(chains.problem, "unanswered", num_asked - len(chains.responses))
    passed = []
    for index, (text, score) in enumerate(zip(chains.responses, chains.scores, strict=True)):
        if score.outcome is not Outcome.CORRECT:
            accounts.count(chains.problem, score.outcome.value)
            continue
        rules = context.rules
        response = cut_reflection(text, rules.reflection_keywords) if rules.reflection == "cut" else text
        candidate = Candidate(problem=chains.problem, index=index, response=response, is_cut=response != text)
        accounts.num_reflections_cut += candidate.is_cut
        if dropped := explain(candidate, context):
            accounts.drop(candidate, *dropped)
        else:
            passed.append(candidate)
    return passed
