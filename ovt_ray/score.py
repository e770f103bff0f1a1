"""A file of model answers, verified with the reward of a training run or with another reward."""

import json
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ovt_ray.core.config.run import RewardConfig, RewardPart
from ovt_ray.core.errors import ConfigError
from ovt_ray.core.files import replacing
from ovt_ray.core.types import Outcome, Problem, Score
from ovt_ray.data.answer_rows import AnswerLine, count_lines, read_lines
from ovt_ray.run.progress import Progress
from reward.protocol import Answer, Part
from reward.service.combine import combine
from reward.service.places import runs_in_ray
from reward.service.scoring import ScoringPool

OF_RESPONSES = Part(name="reward.accuracy:score_lenient")
OF_EXTRACTIONS = Part(name="reward.accuracy:score_answer")
NUM_AHEAD = 256
"""Number of rows in progress before the first of them has to be done. It bounds the memory."""
MAX_LISTED = 20
"""Largest number of bad lines named on the screen. The output has all of them."""
LINES_BETWEEN_STEPS = 20

Submit = Callable[[Problem, str], Callable[[], Score]]
"""Function that begins to score a text, and returns another function that waits for the score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The verdicts on the rows of a file."""

    outcomes: Counter[Outcome]
    num_bad: int
    """Number of lines that are not rows. They are unscorable."""
    num_failed: int
    """Number of rows on which the reward failed. They are unscorable."""

    @property
    def is_in_vain(self) -> bool:
        """Whether the reward failed on every row."""
        return 0 < self.num_failed == self.outcomes.total() - self.num_bad


def score_file(
    source: Path,
    target: Path,
    reward: Part | None,
    num_processes: int,
    *,
    deadline_s: float = RewardConfig().deadline_s,
) -> Tally:
    """Write each row of a file of JSON lines in order, with `outcome`, `value`, `extracted` and `reason`; return the counts.

    Bad lines, and the first row on which the reward fails, are named on the screen. Each is unscorable in the output, with its reason.
    The output appears whole or not at all. Raises ConfigError if it cannot be written, DataError if the source cannot be read,
    RewardError if the reward cannot be loaded.
    """
    _check_target(target)
    num_lines = count_lines(source)
    outcomes: Counter[Outcome] = Counter({outcome: 0 for outcome in Outcome})
    num_bad = num_failed = 0
    with ExitStack() as stack:
        scorer = Scorer(reward, num_processes, deadline_s, stack)
        output = stack.enter_context(replacing(target))
        progress = stack.enter_context(Progress("score", num_lines))
        for done, (line, score) in enumerate(scorer.scored(read_lines(source))):
            output.write(_row(line, score))
            outcomes[score.outcome] += 1
            num_bad += bool(line.fault)
            if line.fault and num_bad <= MAX_LISTED:
                print(line.fault, file=sys.stderr, flush=True)
            num_failed += score.failure is not None
            if score.failure is not None and num_failed == 1:
                print(f"line {line.number}: {score.reason}", file=sys.stderr, flush=True)
            if (done + 1) % LINES_BETWEEN_STEPS == 0 or done == num_lines - 1:
                progress.step(done, {})
    if num_bad:
        print(f"{num_bad} bad lines, unscorable in the output", file=sys.stderr, flush=True)
    if num_failed:
        print(f"the reward failed on {num_failed} rows, unscorable in the output", file=sys.stderr, flush=True)
    return Tally(outcomes=outcomes, num_bad=num_bad, num_failed=num_failed)


def _check_target(target: Path) -> None:
    """Raise ConfigError, before anything is scored, if the output cannot be written there."""
    if target.is_dir():
        raise ConfigError(f"--output {target}: is a folder; give a file in it")
    if not target.parent.is_dir():
        raise ConfigError(f"--output {target}: there is no folder {target.parent}; make it, or correct the path")


def named_reward(name: str | None, options: Sequence[str]) -> Part | None:
    """Return the reward of a name with its options; None without a name. An option is `key=value` with a value in YAML.

    Raises ConfigError if an option has another form, or belongs to no reward.
    """
    values: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if name is None or not key or not equals:
            raise ConfigError(f"--option {option!r}: give it as key=value, together with --reward NAME")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--option {option!r}: the value is not YAML ({error})") from error
    return None if name is None else Part(name=name, options=values)


def summary(outcomes: Counter[Outcome], target: Path) -> str:
    """Return one line with the counts of the outcomes."""
    num_rows = outcomes.total()
    share = f" ({outcomes[Outcome.CORRECT] / num_rows:.2%} correct)" if num_rows else ""
    return f"{target}: {num_rows} rows{share}: " + ", ".join(f"{number} {outcome.value}" for outcome, number in outcomes.items())


class Scorer:
    """Scores lines in processes of this machine, or on Ray where the reward runs there."""

    def __init__(self, reward: Part | None, num_processes: int, deadline_s: float, stack: ExitStack) -> None:
        """Load the reward, whose processes end with the stack. Without a reward, built-in rewards score responses and extractions."""
        self._num_processes = num_processes
        self._deadline_s = deadline_s
        self._stack = stack
        self._started: dict[str, Submit] = {}
        self._reward = reward
        self._submit(reward or OF_RESPONSES)

    def scored(self, lines: Iterator[AnswerLine]) -> Iterator[tuple[AnswerLine, Score]]:
        """Yield each line with its score, in order. A few hundred lines are scored at a time."""
        waiting: deque[tuple[AnswerLine, Callable[[], Score]]] = deque()
        for line in lines:
            waiting.append((line, self._begin(line)))
            if len(waiting) > NUM_AHEAD:
                first, wait = waiting.popleft()
                yield first, wait()
        while waiting:
            first, wait = waiting.popleft()
            yield first, wait()

    def _begin(self, line: AnswerLine) -> Callable[[], Score]:
        if line.problem is None:
            fault = Score(value=0.0, outcome=Outcome.UNSCORABLE, extracted=None, reason=line.fault)
            return lambda: fault
        part = self._reward or (OF_EXTRACTIONS if line.is_extracted else OF_RESPONSES)
        return self._submit(part)(line.problem, line.text)

    def _submit(self, part: Part) -> Submit:
        if part.name not in self._started:
            self._started[part.name] = self._on_ray(part) if runs_in_ray(part.name) else self._in_processes(part)
        return self._started[part.name]

    def _in_processes(self, part: Part) -> Submit:
        parts, memory_gb = [part], RewardConfig().memory_gb
        pool = ScoringPool(parts, num_processes=self._num_processes, deadline_s=self._deadline_s, memory_gb=memory_gb)
        self._stack.callback(pool.close)

        def submit(problem: Problem, text: str) -> Callable[[], Score]:
            rows = pool.submit(problem, [Answer.of_text(0, text)])
            return lambda: combine(parts, rows.result()[0])

        return submit

    def _on_ray(self, part: Part) -> Submit:
        import ray

        from reward.pool import RewardPool

        ray.init(None if "RAY_ADDRESS" in os.environ else "local", log_to_driver=False, logging_level="ERROR")
        self._stack.callback(ray.shutdown)
        parts = (RewardPart(name=part.name, options=dict(part.options)),)
        config = RewardConfig(parts=parts, deadline_s=self._deadline_s, max_error_share=1.0, queue=2 * NUM_AHEAD)
        pool = RewardPool(config)
        self._stack.callback(pool.close)

        def submit(problem: Problem, text: str) -> Callable[[], Score]:
            scores = pool.submit_texts(problem, [text])
            return lambda: pool.collect(scores)[0]

        return submit


def _row(line: AnswerLine, score: Score) -> bytes:
    """Return a line of output: the row as it was read, with its verdict."""
    verdict = {"outcome": score.outcome.value, "value": score.value, "extracted": score.extracted, "reason": score.reason}
    return (json.dumps({**line.row, **verdict}, allow_nan=False) + "\n").encode()
