"""The places of a stage's checkpoints: `step-000020` in the stage's folder, which appears by rename when all ranks have written."""

import os
import shutil
from pathlib import Path

INCOMPLETE = "incomplete"
"""Name of the checkpoint being written; remains of a crash are overwritten."""


def newest(folder: Path) -> int:
    """Return the step of the newest complete checkpoint, 0 if there is none."""
    return max((_step(path) for path in folder.glob("step-*")), default=0)


def tag(step: int) -> str:
    """Return the name of a step's checkpoint."""
    return f"step-{step:06d}"


def complete(folder: Path, step: int) -> None:
    """Give the checkpoint just written its name, then remove all others."""
    final = folder / tag(step)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(folder / INCOMPLETE, final)
    for path in folder.glob("step-*"):
        if path != final:
            shutil.rmtree(path)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
