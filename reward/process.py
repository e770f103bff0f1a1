"""The process in which a reward runs: `python -m reward.process FD PARENT_PID REWARD_NAME`, started by `reward.worker`.

It imports the reward and nothing heavy of ours, says so, and scores what it is sent until its owner closes the channel or dies.
"""

import ctypes
import math
import os
import resource
import signal
import socket
import sys
import traceback

from ovt_ray.errors import RewardError
from ovt_ray.types import Outcome, Problem, Score
from reward.channel import receive, send
from reward.load import RewardFunction, load_reward

MEMORY_LIMIT_BYTES = 4 * 2**30
"""Writable private memory of one process. Address space that is only reserved, as CUDA does, is not counted."""
EXIT_OUT_OF_MEMORY = 101
_PR_SET_PDEATHSIG = 1
_MAX_MESSAGE_CHARS = 500


def main(fd: int, parent: int, name: str) -> None:
    """Serve the channel until its other end is closed.

    First message out: None, or why the reward cannot be loaded. Then each `(problem, texts)` in brings one Score per text out,
    each as soon as it is ready.
    """
    _die_with(parent)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    channel = socket.socket(fileno=fd)
    channel.set_inheritable(False)
    try:
        reward = load_reward(name)
    except RewardError as error:
        send(channel, str(error))
        return
    send(channel, None)
    try:
        while True:
            problem, texts = receive(channel)
            for text in texts:
                send(channel, _score(reward, name, problem, text))
    except (EOFError, OSError):
        return  # the owner closed the channel, or died


def _score(reward: RewardFunction, name: str, problem: Problem, text: str) -> Score:
    """Return the reward's score, or an unscorable one that says what the reward raised or returned instead."""
    try:
        return _checked(reward(problem, text))
    except MemoryError:
        os._exit(EXIT_OUT_OF_MEMORY)  # what filled the memory may still hold it: the owner starts afresh
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error}"[:_MAX_MESSAGE_CHARS]
        reason = f"reward {name} raised on problem {problem.id} ({where.filename}:{where.lineno}): {what}"
        return Score(value=0.0, outcome=Outcome.UNSCORABLE, extracted=None, reason=reason)


def _checked(score: object) -> Score:
    """Return the score made of plain values, whatever subclasses the reward used; TypeError or ValueError if it is none."""
    if not isinstance(score, Score):
        raise TypeError(f"it returned a {type(score).__name__}, not a Score")
    if not math.isfinite(score.value):
        raise ValueError(f"it returned the value {score.value}, not a finite number")
    extracted = None if score.extracted is None else str(score.extracted)
    return Score(value=float(score.value), outcome=Outcome(score.outcome), extracted=extracted, reason=str(score.reason))


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the parent's thread that started it ends, also while a reward hangs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
