"""Chains are kept as they come: what an interrupted stage has on the disk is not asked for again."""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ovt_ray.core.errors import StageError
from ovt_ray.core.types import AnswerKind, Outcome, Problem, Score
from ovt_ray.distillation.chains import ROWS_AT_ONCE, Chains, chains_by_dataset, keep_chains, read_chains

ROOT = Path(__file__).parents[3]
PROBLEMS = [Problem(id=f"p{number}", question="?", images=(), answer="4", kind=AnswerKind.NUMBER) for number in range(ROWS_AT_ONCE + 6)]


def chains(problem: Problem) -> Chains:
    score = Score(value=1.0, outcome=Outcome.CORRECT, extracted="4", reason="")
    return Chains(problem=problem, responses=(f"{problem.id} \ud800\u2028",), scores=(score,), num_tokens=3)


class Unscored:
    """A reward service that scores nothing."""

    def score_texts(self, answered: Iterable[tuple[Problem, Sequence[str]]]) -> Iterator[tuple[Problem, Sequence[str], tuple[Score, ...]]]:
        for problem, texts in answered:
            yield problem, texts, tuple(Score(value=0.0, outcome=Outcome.WRONG, extracted=None) for _ in texts)


def test_solutions_that_are_whole_responses_are_taken_as_they_are() -> None:
    whole = "<think> two and two </think> So: <answer> four </answer>"
    problems = [replace(PROBLEMS[0], id=str(place), solution=solution) for place, solution in enumerate(["2 + 2 = 4", whole, ""])]
    given = [chains.responses for chains in chains_by_dataset(Unscored(), problems)]
    assert given == [("<think> 2 + 2 = 4 </think> <answer> 4 </answer>",), (whole,), ()]


def stop_after(problems: list[Problem]) -> Iterator[Chains]:
    yield from map(chains, problems)
    raise KeyboardInterrupt


def test_an_interrupted_stage_finds_again_what_it_had_put_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "chains.jsonl"
    with pytest.raises(KeyboardInterrupt):
        keep_chains(path, stop_after(PROBLEMS[:-1]), "iter2/distil", num_before=0, num_problems=len(PROBLEMS))
    before = read_chains(path, PROBLEMS)
    assert list(before) == [problem.id for problem in PROBLEMS[:-1]]
    left = [problem for problem in PROBLEMS if problem.id not in before]
    keep_chains(path, map(chains, left), "iter2/distil", num_before=len(before), num_problems=len(PROBLEMS))
    kept = read_chains(path, PROBLEMS)
    assert [(one.problem, one.responses, one.scores) for one in kept.values()] == [
        (one.problem, one.responses, one.scores) for one in map(chains, PROBLEMS)
    ]


@pytest.mark.heavy
def test_a_killed_stage_asks_again_for_what_was_not_yet_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"
    process = subprocess.Popen([sys.executable, "-m", "tests.ovt_ray.distillation.test_chains", str(path)], cwd=ROOT)
    while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") >= ROWS_AT_ONCE):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    before = read_chains(path, PROBLEMS)
    assert list(before) == [problem.id for problem in PROBLEMS[:ROWS_AT_ONCE]]
    keep_chains(path, map(chains, PROBLEMS[ROWS_AT_ONCE:]), "iter2/distil", num_before=len(before), num_problems=len(PROBLEMS))
    assert [one.responses for one in read_chains(path, PROBLEMS).values()] == [chains(problem).responses for problem in PROBLEMS]


def test_problems_without_an_answer_before_the_source_fails_are_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"
    unanswered = [Chains(problem=problem, responses=(), scores=()) for problem in PROBLEMS]

    def failing() -> Iterator[Chains]:
        yield from (unanswered[0], chains(PROBLEMS[1]), *unanswered[2:])
        raise StageError("the server is gone")

    with pytest.raises(StageError):
        keep_chains(path, failing(), "iter2/distil", num_before=0, num_problems=len(PROBLEMS))
    assert list(read_chains(path, PROBLEMS)) == ["p0", "p1"], "one that is followed by an answer is not the server's fault"
    keep_chains(path, iter(unanswered[2:]), "iter2/distil", num_before=2, num_problems=len(PROBLEMS))
    assert len(read_chains(path, PROBLEMS)) == len(PROBLEMS), "a source that comes to its end has said all it has to say"


def test_a_line_torn_by_a_crash_is_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"
    keep_chains(path, map(chains, PROBLEMS[:2]), "iter2/distil", num_before=0, num_problems=2)
    path.write_bytes(path.read_bytes()[:-5])
    assert list(read_chains(path, PROBLEMS)) == ["p0"]


def test_chains_of_problems_that_are_not_asked_for_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "chains.jsonl"
    keep_chains(path, map(chains, PROBLEMS[:3]), "iter2/distil", num_before=0, num_problems=3)
    assert list(read_chains(path, PROBLEMS[1:2])) == ["p1"]


def test_progress_shows_how_many_are_correct(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    keep_chains(tmp_path / "chains.jsonl", map(chains, PROBLEMS[:1]), "iter2/distil", num_before=0, num_problems=1)
    (shown,) = caplog.messages
    assert shown.startswith("[iter2/distil 1/1] accuracy 1.00 tok/s ") and "eta 0:00" in shown


def slow_at_the_end() -> Iterator[Chains]:
    for number, problem in enumerate(PROBLEMS):
        time.sleep(10 if number == ROWS_AT_ONCE else 0)
        yield chains(problem)


if __name__ == "__main__":
    keep_chains(Path(sys.argv[1]), slow_at_the_end(), "iter2/distil", num_before=0, num_problems=len(PROBLEMS))
