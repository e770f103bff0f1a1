"""The process that runs a reward can hang, crash, hog memory or be killed; only the guilty text loses its score."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ovt_ray.core.errors import RewardError
from ovt_ray.core.types import AnswerKind, Outcome, Problem, Score
from reward.protocol import Answer, Part
from reward.service.worker import ScoringProcess
from reward.verifier.numeric_equality import agree

pytestmark = pytest.mark.heavy

OBEY = f"{Path(__file__).parents[1]}/obedient_reward.py:obey"
PROBLEM = Problem(id="p1", question="?", images=(b"\x89PNG",), answer="6", kind=AnswerKind.NUMBER)
DEADLINE_S = 1.0


@pytest.fixture
def process() -> Iterator[ScoringProcess]:
    """A process that runs the obedient reward."""
    process = ScoringProcess([Part(name=OBEY)], 4)
    yield process
    process.close()
    assert not _is_alive(process.pid)


def scores_of(process: ScoringProcess, texts: tuple[str, ...], deadline_s: float) -> tuple[Score, ...]:
    """Return the score of each text by the process's only part."""
    rows = process.score(PROBLEM, [Answer.of_text(index, text) for index, text in enumerate(texts)], deadline_s)
    return tuple(score for (score,) in rows)


def _is_alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _eventually(condition: Callable[[], bool], limit_s: float = 5) -> bool:
    """Return whether the condition comes true within the limit."""
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_each_text_gets_its_score_in_order(process: ScoringProcess) -> None:
    scores = scores_of(process, ("a", "bb", "ccc"), DEADLINE_S)
    assert [(score.value, score.extracted, score.reason) for score in scores] == [
        (1.0, "a", "number 1"),
        (2.0, "bb", "number 2"),
        (3.0, "ccc", "number 3"),
    ]
    assert scores_of(process, (), DEADLINE_S) == ()


@pytest.mark.parametrize("order", ["hang", "regex"])
def test_a_hang_costs_its_own_score_only_and_ends_at_the_deadline(process: ScoringProcess, order: str) -> None:
    pid, start = process.pid, time.monotonic()
    before, hung, after = scores_of(process, ("a", order, "bb"), DEADLINE_S)
    assert DEADLINE_S <= time.monotonic() - start < DEADLINE_S + 0.5
    assert (before.value, after.value) == (1.0, 2.0)
    assert (hung.outcome, hung.value) == (Outcome.UNSCORABLE, 0.0)
    assert hung.reason == f"reward {OBEY} on problem p1, completion 1: its process took longer than 1 s and was killed"
    assert not _is_alive(pid)


def test_the_deadline_is_each_text_s_own(process: ScoringProcess) -> None:
    scores = scores_of(process, ("sleep 0.6", "sleep 0.6", "sleep 0.6"), DEADLINE_S)
    assert [score.outcome for score in scores] == [Outcome.CORRECT] * 3


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ("exit", "ended with exit code 3"),
        ("quit", "ended with exit code 4"),
        ("kill", "was killed by SIGKILL"),
        ("hog", "needed more than 4 GiB of memory"),
    ],
)
def test_a_crash_costs_its_own_score_only_and_says_how_it_ended(process: ScoringProcess, order: str, reason: str) -> None:
    before, crashed, after = scores_of(process, ("a", order, "bb"), 5.0)
    assert (before.value, after.value) == (1.0, 2.0)
    assert crashed.outcome is Outcome.UNSCORABLE
    assert crashed.reason == f"reward {OBEY} on problem p1, completion 1: its process {reason}"


def test_every_text_of_a_group_may_crash(process: ScoringProcess) -> None:
    scores = scores_of(process, ("exit", "exit", "raise", "exit"), DEADLINE_S)
    assert [score.outcome for score in scores] == [Outcome.UNSCORABLE] * 4


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("raise", "raised KeyError: 'no such part' ("),
        ("text", "returned str, neither a Score nor a number"),
        ("nan", "returned the value nan, not a finite number"),
    ],
)
def test_an_exception_or_what_is_no_score_names_reward_and_problem_and_the_process_lives_on(
    process: ScoringProcess, order: str, message: str
) -> None:
    pid = process.pid
    failed, after = scores_of(process, (order, "bb"), DEADLINE_S)
    assert failed.outcome is Outcome.UNSCORABLE
    assert failed.reason.startswith(f"reward {OBEY} on problem p1, completion 0: it {message}")
    assert (after.value, after.reason, process.pid) == (2.0, "number 2", pid)


def test_scores_come_back_as_plain_values(process: ScoringProcess) -> None:
    (score,) = scores_of(process, ("numpy",), DEADLINE_S)
    assert (type(score.value), score.value, type(score.extracted), score.extracted) == (float, 0.5, str, "half")


def test_hostile_text_crosses_unchanged(process: ScoringProcess) -> None:
    texts = ("\ud800 lone", "nul \0", "x" * 8_000_000, "\u202e\u200b", "")
    assert tuple(score.extracted for score in scores_of(process, texts, 5.0)) == texts


def test_a_process_killed_between_groups_costs_no_score(process: ScoringProcess) -> None:
    os.kill(process.pid, signal.SIGKILL)
    assert _eventually(lambda: not _is_alive(process.pid))
    assert scores_of(process, ("a",), DEADLINE_S)[0].value == 1.0


def test_a_stopped_process_that_reads_nothing_is_killed_at_the_deadline(process: ScoringProcess) -> None:
    os.kill(process.pid, signal.SIGSTOP)
    start = time.monotonic()
    big, after = scores_of(process, ("x" * 8_000_000, "bb"), DEADLINE_S)
    assert time.monotonic() - start < DEADLINE_S + 0.5
    assert (big.outcome, after.value) == (Outcome.UNSCORABLE, 2.0)


def test_what_a_killed_reward_had_started_ends_with_it(process: ScoringProcess, tmp_path: Path) -> None:
    scores_of(process, (f"children {tmp_path}/pid",), DEADLINE_S)
    child = int((tmp_path / "pid").read_text())
    assert _eventually(lambda: not _is_alive(child))


@pytest.mark.parametrize("text", ["hang", "regex", "a"])
def test_no_process_outlives_a_killed_owner(text: str) -> None:
    owner_code = f"""
import sys, time
from ovt_ray.core.types import AnswerKind, Problem
from reward.protocol import Answer, Part
from reward.service.worker import ScoringProcess
process = ScoringProcess([Part(name={OBEY!r})], 4)
print(process.pid, flush=True)
process.score(Problem(id="p1", question="?", images=(), answer="6", kind=AnswerKind.NUMBER), [Answer.of_text(0, {text!r})], 3600)
time.sleep(3600)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen([sys.executable, "-c", owner_code], stdout=subprocess.PIPE, env=environment, text=True) as owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        time.sleep(0.3)
        assert _is_alive(child)
        owner.kill()
    assert _eventually(lambda: not _is_alive(child))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "has no 'score'"),
        ("import os; os._exit(5)", "on its import the process ended with exit code 5"),
        ("raise SystemExit(6)", "importing .* raised SystemExit: 6"),
    ],
)
def test_a_reward_that_cannot_be_loaded_is_refused_with_its_message(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "broken.py").write_text(source)
    with pytest.raises(RewardError, match=message):
        ScoringProcess([Part(name=f"{tmp_path}/broken.py:score")], 4)


def test_the_process_loads_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "modules.py").write_text(
        "import sys\nfrom ovt_ray.core.types import Outcome, Score\n"
        "def score(problem, text):\n"
        "    return Score(value=0.0, outcome=Outcome.WRONG, extracted=' '.join(sys.modules))\n"
    )
    process = ScoringProcess([Part(name=f"{tmp_path}/modules.py:score")], 4)
    (score,) = scores_of(process, ("",), DEADLINE_S)
    process.close()
    assert score.extracted is not None
    assert {"torch", "ray", "numpy", "pydantic", "transformers", "vllm"}.isdisjoint(score.extracted.split())


def test_a_group_of_eight_costs_less_than_two_milliseconds() -> None:
    process = ScoringProcess([Part(name="reward.accuracy:score_accuracy")], 4)
    texts = tuple(f"<think> {number} </think> <answer> {number} </answer>" for number in range(8))
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        scores_of(process, texts, DEADLINE_S)
        seconds.append(time.perf_counter() - start)
    process.close()
    assert sorted(seconds)[25] < 2e-3


def test_the_first_answer_s_deadline_does_not_pay_for_the_import_of_the_algebra_system() -> None:
    problem = Problem(id="p1", question="?", images=(), answer=r"\ln 9", kind=AnswerKind.LATEX)
    assert agree(r"2\ln 3", problem.answer) is None, "values at points do not decide it"
    process = ScoringProcess([Part(name="reward.accuracy:score_answer")], 4)
    ((score,),) = process.score(problem, [Answer.of_text(0, r"2\ln 3")], 0.4)
    process.close()
    assert score.outcome is Outcome.CORRECT, score.reason
