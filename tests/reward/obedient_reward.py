"""A reward that does what its text says: it hangs, raises, kills its process or takes all memory."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np

from ovt_ray.core.types import Outcome, Problem, Score

seen: list[str] = []
hoard: list[np.ndarray] = []


def obey(problem: Problem, text: str) -> Score:
    """Return the text's length, unless the text orders worse."""
    seen.append(text)
    order, _, argument = text.partition(" ")
    match order:
        case "hang":
            time.sleep(3600)
        case "regex":
            re.match(r"(a+)+$", "a" * 64 + "b")  # catastrophic, and it holds the interpreter's lock
        case "raise":
            raise KeyError("no such part")
        case "exit":
            os._exit(3)
        case "quit":
            raise SystemExit(4)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "orphan":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(3600)
        case "hog":
            while True:
                hoard.append(np.empty(2**26, np.float32))  # 256 MiB, asked for and never touched
        case "children":
            child = subprocess.Popen(["sleep", "3600"])
            Path(argument).write_text(str(child.pid))
            time.sleep(3600)
        case "text":
            return "1.0"  # type: ignore[return-value]
        case "nan":
            return Score(value=float("nan"), outcome=Outcome.CORRECT, extracted=None)
        case "numpy":
            return Score(value=np.float64(0.5), outcome=Outcome.CORRECT, extracted=np.str_("half"))
        case "once":
            if not Path(argument).exists():
                Path(argument).write_text(str(os.getpid()))
                time.sleep(3600)
        case "sleep":
            time.sleep(float(argument.split()[0]))
    return Score(value=float(len(text)), outcome=Outcome.CORRECT, extracted=text, reason=f"number {len(seen)}")
