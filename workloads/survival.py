"""Scores hostile answers and counts everything that must not happen: an answer accepted, executed, late, or with processes left behind."""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import psutil

from ovt_ray.core.types import Outcome, Problem, Score
from reward.protocol import Answer, Part
from reward.service.worker import ScoringProcess
from workloads.hostile_answers import CANARY, NUM_PAIRS

TOLERANCE_S = 0.5
"""Upper bound on the seconds past its deadline at which an answer may come back."""
REWARDS = ("reward.accuracy:score_accuracy", "reward.accuracy:score_lenient")
MEMORY_GB = 4.0
EASY = "<think>Easy.</think><answer>0</answer>"
"""Answer that is scored outside the clock after a kill, so that the next answer's time does not include a process start."""


@dataclass(slots=True, kw_only=True)
class HostileTally:
    """Counts of a run over hostile answers."""

    num_answers: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    accepted: list[str] = field(default_factory=list)
    """Start of each accepted answer, with its gold answer."""
    num_killed: int = 0
    """Number of answers that killed their process."""
    num_past_deadline: int = 0
    """Number of answers that came back more than TOLERANCE_S after their deadline."""
    max_overrun_s: float = 0.0
    """Longest time past a deadline; 0 if no answer was late."""
    num_leaked_processes: int = 0
    """Number of scoring processes and their children that are alive after the end."""
    num_executed: int = 0
    """Number of answers whose payload ran as a program."""
    seconds: float = 0.0


def survive(cases: Iterable[tuple[Problem, str]], rewards: Sequence[str], deadline_s: float) -> HostileTally:
    """Return the counts of scoring the cases. The rewards take turns, each with every pair of family and problem."""
    tally = HostileTally()
    CANARY.unlink(missing_ok=True)
    sessions: set[int] = set()
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(contextlib.closing(ScoringProcess([Part(name=name)], MEMORY_GB))) for name in rewards]
        for index, (problem, text) in enumerate(cases):
            process = processes[index // NUM_PAIRS % len(processes)]
            sessions.add(process.pid)
            _score(tally, process, problem, text, deadline_s=deadline_s)
            sessions.add(process.pid)
    tally.seconds = time.monotonic() - start
    tally.num_leaked_processes = _num_alive(sessions)
    return tally


def _score(tally: HostileTally, process: ScoringProcess, problem: Problem, text: str, *, deadline_s: float) -> None:
    """Score a text and count its effects."""
    before = process.pid
    start = time.monotonic()
    ((score,),) = process.score(problem, [Answer.of_text(0, text)], deadline_s)
    overrun_s = time.monotonic() - start - deadline_s
    tally.num_answers += 1
    tally.outcomes[score.outcome] += 1
    tally.max_overrun_s = max(tally.max_overrun_s, overrun_s)
    tally.num_past_deadline += overrun_s > TOLERANCE_S
    if score.outcome is Outcome.CORRECT or score.value > 0:
        tally.accepted.append(_described(problem, text, score))
    if CANARY.exists():
        tally.num_executed += 1
        CANARY.unlink()
    if score.outcome is Outcome.UNSCORABLE:
        process.score(problem, [Answer.of_text(0, EASY)], deadline_s)
    tally.num_killed += process.pid != before


def _described(problem: Problem, text: str, score: Score) -> str:
    return f"{text[:80]!r} ({len(text)} characters) for {problem.kind} {problem.answer!r}, read as {(score.extracted or '')[:80]!r}"


def _num_alive(sessions: set[int]) -> int:
    """Return the number of living processes of these sessions. Each scoring process leads a session, which its children join."""
    num_alive = 0
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the process just ended, or is another user's
            num_alive += os.getsid(pid) in sessions
    return num_alive
