"""Parallel scoring processes, each owned by a thread. Reward actors and `ovt-ray score` use them."""

import contextlib
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from ovt_ray.core.types import Problem, Score
from reward.load import with_deadline
from reward.protocol import Answer, Part
from reward.service.worker import ScoringProcess


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """Answers waiting for a process."""

    problem: Problem
    answers: tuple[Answer, ...]
    rows: "Future[list[list[Score]]]" = field(default_factory=Future)


class ScoringPool:
    """Processes that take answers in the order of submission. A kill costs the others nothing. Any thread of a process may use the pool."""

    def __init__(self, parts: Sequence[Part], *, num_processes: int, deadline_s: float, memory_gb: float) -> None:
        """Start the processes and load the parts in each. Raises RewardError, with the loader's message, if a part cannot be loaded."""
        self._parts = tuple(with_deadline(part, deadline_s) for part in parts)
        self._deadline_s = deadline_s
        self._memory_gb = memory_gb
        self._waiting: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._started: list[Future[int]] = [Future() for _ in range(num_processes)]
        # Daemons: the interpreter's exit, which ends them, ends their processes too.
        self._threads = [threading.Thread(target=self._serve, args=[started], daemon=True) for started in self._started]
        for thread in self._threads:
            thread.start()
        try:
            self.process_ids()
        except BaseException:
            self.close()
            raise

    def process_ids(self) -> list[int]:
        """Return the id that each process had at its start, once all have loaded their parts."""
        return [started.result() for started in self._started]

    def submit(self, problem: Problem, answers: Sequence[Answer]) -> "Future[list[list[Score]]]":
        """Return a future of the scores: for each answer, in order, a score per part.

        Its result raises RewardError if the process had to be replaced and could not be.
        """
        work = _Work(problem=problem, answers=tuple(answers))
        self._waiting.put(work)
        return work.rows

    def close(self) -> None:
        """Cancel the answers that still wait, and end the processes once they have scored their present answers."""
        # Cancelled first: the ends below stand in the queue behind all answers that wait.
        with contextlib.suppress(queue.Empty):
            while work := self._waiting.get_nowait():
                work.rows.cancel()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _serve(self, started: "Future[int]") -> None:
        """Own a process and feed it until the pool is closed."""
        try:
            # In this thread: the kernel kills the child when the thread that started it ends.
            process = ScoringProcess(self._parts, self._memory_gb)
        except BaseException as error:
            # The constructor waits for this future, and would hang if the error stayed here.
            started.set_exception(error)
            return
        started.set_result(process.pid)
        try:
            while (work := self._waiting.get()) is not None:
                self._score(process, work)
        finally:
            process.close()

    def _score(self, process: ScoringProcess, work: _Work) -> None:
        if not work.rows.set_running_or_notify_cancel():  # from here on it cannot be cancelled
            return
        try:
            work.rows.set_result(process.score(work.problem, work.answers, self._deadline_s))
        except Exception as error:  # for the submitter to handle; the process may start again for a later answer
            process.close()
            work.rows.set_exception(error)
