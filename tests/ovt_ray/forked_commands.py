"""Runs commands of `ovt-ray` in processes that are forked from one with torch, transformers and DeepSpeed imported.

Every process is a fresh one, as from a shell; the imports, which take longer than most commands, are paid once.
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess

CONTEXT = multiprocessing.get_context("forkserver")
QWEN = "transformers.models.qwen2_5_vl"
CONTEXT.set_forkserver_preload(["deepspeed", f"{QWEN}.modeling_qwen2_5_vl", f"{QWEN}.processing_qwen2_5_vl", "ovt_ray.start_checks"])
TIMEOUT_S = 120


def forked_command(arguments: tuple[str, ...], environment: Mapping[str, str], folder: Path) -> CompletedProcess[str]:
    """Return the finished command; its output passes through files in the folder."""
    output, errors = folder / "stdout", folder / "stderr"
    process = CONTEXT.Process(target=_run, args=(arguments, dict(environment), output, errors))
    process.start()
    process.join(TIMEOUT_S)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{arguments} took more than {TIMEOUT_S} s")
    return CompletedProcess(arguments, process.exitcode, output.read_text(), errors.read_text())


def _run(arguments: tuple[str, ...], environment: dict[str, str], output: Path, errors: Path) -> None:
    from ovt_ray.cli import main

    for path, stream in ((output, sys.stdout), (errors, sys.stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(main(arguments))
