"""Owns a process that runs rewards, and replaces it when it hangs, dies or runs out of memory."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from ovt_ray.core.errors import RewardError
from ovt_ray.core.types import Failure, Problem, Score
from reward.protocol import Answer, Part, unscorable
from reward.service.channel import receive, send
from reward.service.process import EXIT_OUT_OF_MEMORY, Job, Loaded, LoadRequest, Result

START_DEADLINE_S = 60.0
"""Upper bound on the time of a process to start and import its rewards."""
GRACE_S = 0.25
"""Time for a process to report a late `async` reward before it is killed."""
_Rows = list[dict[int, Score]]
"""For each answer, the scores so far by the position of their part."""


class ScoringProcess:
    """A child process and the channel to it. Use it from a single thread, whose end also ends the child."""

    def __init__(self, parts: Sequence[Part], memory_gb: float) -> None:
        """Start the process. Raises RewardError, with the loader's message, if it cannot load a part."""
        self._parts = tuple(parts)
        self._request = LoadRequest(parts=self._parts, memory_bytes=int(memory_gb * 2**30))
        self._process: subprocess.Popen[bytes]
        self._is_open: bool
        self._start()

    @property
    def pid(self) -> int:
        """Process id of the present child."""
        return self._process.pid

    def score(self, problem: Problem, answers: Sequence[Answer], deadline_s: float) -> list[list[Score]]:
        """Return, for each answer in order, a score per part.

        An answer on which the process hangs longer than `deadline_s` or dies is unscorable. The other answers are scored as if it did
        not exist. Raises RewardError if the process cannot be started again.
        """
        rows: _Rows = [{} for _ in answers]
        waiting = [list(range(len(answers)))] if answers else []
        while waiting:
            positions = waiting.pop()
            job = Job(problem=problem, answers=tuple(answers[position] for position in positions), deadline_s=deadline_s)
            failed = self._run(job, positions, rows)
            if failed is None:
                continue
            left = [position for position in positions if len(rows[position]) < len(self._parts)]
            guilty = self._guilty(left, rows)
            if guilty is None:
                waiting += [[position] for position in reversed(left)]  # reversed, as `pop` takes the last
                continue
            self._give_up(problem, answers[guilty], rows[guilty], failed)
            if rest := [position for position in left if position != guilty]:
                waiting.append(rest)
        return [[row[part] for part in range(len(self._parts))] for row in rows]

    def close(self) -> None:
        """End the process and its own child processes. Safe to call twice."""
        if not self._is_open:
            return
        self._is_open = False
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):  # the group is gone; its id stays taken while any of its processes lives
            os.killpg(self._process.pid, signal.SIGKILL)
        # After the kill: a process that nobody waits for stays in the table of processes.
        self._process.wait()

    def _run(self, job: Job, positions: Sequence[int], rows: _Rows) -> tuple[Failure, str] | None:
        """Enter the process's results in the rows. If the process fails before the last result, return its failure."""
        # It may have died between two jobs; a new start here costs no answer its score.
        if self._process.poll() is not None:
            self.close()
            self._start()
        limit_s = job.deadline_s if len(self._one_by_one) == len(self._parts) else job.deadline_s + GRACE_S
        try:
            # With a limit: a process that hangs does not read, and a full channel would block this thread.
            send(self._channel, job, time.monotonic() + limit_s)
            # Each result restarts the clock, so that a slow answer leaves the next answer its whole time.
            for _ in range(len(positions) * len(self._parts)):
                result: Result = receive(self._channel, time.monotonic() + limit_s)
                rows[positions[result.position]][result.part] = result.score
        except TimeoutError:
            self.close()
            return Failure.DEADLINE, f"took longer than {job.deadline_s:g} s and was killed"
        except (EOFError, OSError):
            return self._last_words()
        return None

    def _guilty(self, left: Sequence[int], rows: _Rows) -> int | None:
        """Return the answer on which the process failed. None if it was scoring several at once: each is then tried alone."""
        if len(left) == 1:
            return left[0]
        return next((position for position in left if not self._one_by_one <= rows[position].keys()), None)

    def _give_up(self, problem: Problem, answer: Answer, row: dict[int, Score], failed: tuple[Failure, str]) -> None:
        """Make the answer unscorable by the part that was scoring it, and by all parts after it."""
        failure, reason = failed
        order = sorted(range(len(self._parts)), key=lambda part: part not in self._one_by_one)
        missing = [part for part in order if part not in row]
        name = self._parts[missing[0]].name
        where = f"reward {name} on problem {problem.id}, completion {answer.index}"
        row.update(dict.fromkeys(missing, unscorable(f"{where}: its process {reason}", failure)))

    def _start(self) -> None:
        """Start a process and wait until it has loaded the rewards."""
        self._channel, far_end = socket.socketpair()
        # -P and this process's path: the child imports the modules that this process would, not files of the working directory.
        command = [sys.executable, "-P", "-m", "reward.service.process", str(far_end.fileno()), str(os.getpid())]
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._is_open = True
        # Closing this process's copy of the far end lets the end of the child close the channel.
        with far_end:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                pass_fds=[far_end.fileno()],
                start_new_session=True,  # a group of its own, so that `close` also kills the children of rewards
            )
        names = ", ".join(repr(part.name) for part in self._parts)
        try:
            limit = time.monotonic() + START_DEADLINE_S
            send(self._channel, self._request, limit)
            loaded = receive(self._channel, limit)
        except TimeoutError:
            loaded = f"reward {names}: its import took longer than {START_DEADLINE_S:g} s"
        except (EOFError, OSError):
            loaded = f"reward {names}: on its import the process {self._last_words()[1]}"
        if not isinstance(loaded, Loaded):
            self.close()
            raise RewardError(loaded)
        self._one_by_one = loaded.one_by_one

    def _last_words(self) -> tuple[Failure, str]:
        """Return how the process ended, whose channel is closed."""
        try:
            # The channel closes a moment before the exit code is there.
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return Failure.CRASH, "closed its channel and was killed"
        finally:
            self.close()
        if code == EXIT_OUT_OF_MEMORY:
            return Failure.MEMORY, f"needed more than {self._request.memory_bytes / 2**30:g} GiB of memory"
        if code < 0:
            return Failure.CRASH, f"was killed by {signal.Signals(-code).name}"
        return Failure.CRASH, f"ended with exit code {code}"
