"""Owns the one process that runs the reward, and replaces it when it hangs, dies or runs out of memory."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

from ovt_ray.errors import RewardError
from ovt_ray.types import Outcome, Problem, Score
from reward.channel import receive, send
from reward.process import EXIT_OUT_OF_MEMORY, MEMORY_LIMIT_BYTES

START_DEADLINE_S = 60.0
"""Longest time for a process to start and import its reward."""


class ScoringProcess:
    """One child process and the channel to it. To be used from one thread, whose end also ends the child."""

    def __init__(self, name: str) -> None:
        """Start the process. Raises RewardError, with the loader's message, if it cannot load the reward `name`."""
        self._name = name
        self._process: subprocess.Popen[bytes]
        self._is_open: bool
        self._start()

    @property
    def pid(self) -> int:
        """Process id of the present child."""
        return self._process.pid

    def score(self, problem: Problem, texts: tuple[str, ...], deadline_s: float) -> tuple[Score, ...]:
        """Return one score per text, in order.

        A text on which the process hangs longer than `deadline_s` or dies is unscorable; the others are scored as if it
        were not there. Raises RewardError if the process then cannot be started again.
        """
        scores: list[Score] = []
        while len(scores) < len(texts):
            if self._process.poll() is not None:
                self.close()
                self._start()
            try:
                send(self._channel, (problem, texts[len(scores) :]), time.monotonic() + deadline_s)
                while len(scores) < len(texts):
                    scores.append(receive(self._channel, time.monotonic() + deadline_s))
            except TimeoutError:
                self.close()
                scores.append(self._unscorable(problem, f"took longer than {deadline_s:g} s and was killed"))
            except (EOFError, OSError):
                scores.append(self._unscorable(problem, self._last_words()))
        return tuple(scores)

    def close(self) -> None:
        """End the process and those it started. Safe to call twice."""
        if not self._is_open:
            return
        self._is_open = False
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):  # the group, whose id stays taken while one of it lives, is gone
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _start(self) -> None:
        """Start a process and wait until it has loaded the reward."""
        self._channel, far_end = socket.socketpair()
        # -P and our own path: the child finds what this process finds, not what lies in the working directory.
        command = [sys.executable, "-P", "-m", "reward.process", str(far_end.fileno()), str(os.getpid()), self._name]
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._is_open = True
        with far_end:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                pass_fds=[far_end.fileno()],
                start_new_session=True,
            )
        try:
            refusal = receive(self._channel, time.monotonic() + START_DEADLINE_S)
        except TimeoutError:
            refusal = f"reward.name: {self._name!r}: its import took longer than {START_DEADLINE_S:g} s"
        except (EOFError, OSError):
            refusal = f"reward.name: {self._name!r}: on its import the process {self._last_words()}"
        if refusal is not None:
            self.close()
            raise RewardError(refusal)

    def _last_words(self) -> str:
        """Return how the process, whose channel is closed, ended."""
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "closed its channel and was killed"
        finally:
            self.close()
        if code == EXIT_OUT_OF_MEMORY:
            return f"needed more than {MEMORY_LIMIT_BYTES / 2**30:g} GiB of memory"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def _unscorable(self, problem: Problem, what: str) -> Score:
        """Return the score of a text that the process did not survive."""
        reason = f"reward {self._name} on problem {problem.id}: its process {what}"
        return Score(value=0.0, outcome=Outcome.UNSCORABLE, extracted=None, reason=reason)
