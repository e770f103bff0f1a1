"""Measures the effect of hostile answers on the reward service: whether it runs, accepts, leaks or waits for any of them.

    python -m benchmarks.hostile [NUM_ANSWERS] [SEED]

Scores generated answers (default 20,000) one at a time, half of them as training does and half leniently. Each reward runs in a scoring
process of its own. Each generated answer is wrong, so none may be accepted. The last line is a JSON object.
"""

import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import psutil

from ovt_ray.core.types import Outcome, Problem, Score
from reward.protocol import Answer, Part
from reward.service.worker import ScoringProcess
from tests.reward.verifier.hostile import CANARY, NUM_PAIRS, hostile_answers

NUM_ANSWERS = 20_000
DEADLINE_S = 2.0
TOLERANCE_S = 0.5
"""Upper bound on the seconds past its deadline at which an answer may come back."""
REWARDS = ("reward.accuracy:score_accuracy", "reward.accuracy:score_lenient")
MEMORY_GB = 4.0
EASY = "<think>Easy.</think><answer>0</answer>"
"""Answer that is scored outside the clock after a kill, so that the next answer's time does not include a process start."""


@dataclass(slots=True, kw_only=True)
class HostileTally:
    """The results of a run of hostile answers."""

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


def measure(cases: Iterable[tuple[Problem, str]], rewards: Sequence[str], deadline_s: float) -> HostileTally:
    """Return the results of scoring the cases. The rewards take turns, each with every pair of family and problem."""
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


def report(tally: HostileTally) -> None:
    """Print the table and the JSON line."""
    print(f"\n{'outcome':<14}{'answers':>9}")
    for outcome, count in tally.outcomes.most_common():
        print(f"{outcome:<14}{count:>9,}")
    print(f"{'killed':<14}{tally.num_killed:>9,}\n\n{tally.num_answers / tally.seconds:,.0f} answers/s, deadline {DEADLINE_S:g} s")
    for line in tally.accepted[:20]:
        print(f"accepted: {line}")
    figures = {
        "num_answers": tally.num_answers,
        "num_accepted": len(tally.accepted),
        "num_past_deadline": tally.num_past_deadline,
        "max_overrun_s": round(tally.max_overrun_s, 3),
        "num_leaked_processes": tally.num_leaked_processes,
        "num_executed": tally.num_executed,
        "seconds": round(tally.seconds, 1),
    }
    print(json.dumps(figures))


def main(arguments: Sequence[str]) -> None:
    """Measure and report."""
    num = int(arguments[0]) if arguments else NUM_ANSWERS
    seed = int(arguments[1]) if len(arguments) > 1 else 0
    report(measure(hostile_answers(num, seed), REWARDS, DEADLINE_S))


if __name__ == "__main__":
    main(sys.argv[1:])
