"""The processes of running engines, found by their command lines."""

import psutil


def command_of(process: psutil.Process) -> str:
    """Return a process's command line; empty if it has just ended."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def engines_of(parent: psutil.Process) -> list[psutil.Process]:
    """Return the processes of a rollout worker's engine. They name themselves where their environment leaves room in memory for a name."""
    return [process for process in parent.children(recursive=True) if any(part in command_of(process) for part in ("VLLM::", "spawn_main"))]
