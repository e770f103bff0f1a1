"""`ovt-ray score`: a file of model answers, verified with the reward of a training run or with any other."""

import argparse
import os
from pathlib import Path

from ovt_ray.core.config.run import RewardConfig
from ovt_ray.core.errors import ConfigError

SUMMARY = "verify the answers in a file of JSON lines"
DESCRIPTION = """Verify the answers in a file of JSON lines: response and gold (or answer), and optionally question, kind (choice, number,
text, latex, yesno, list), choices, precision, unit, extraction (if there is one, it is scored instead of the response)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the files, the reward and its limits."""
    parser.add_argument("source", type=Path, metavar="IN.jsonl")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="OUT.jsonl", help="the same rows with outcome, value, extracted, reason"
    )
    parser.add_argument("--reward", metavar="NAME", help="package.module:Name, path/file.py:Name, actor:NAME or an http(s) address")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="key=value",
        help="argument of the reward's constructor, may be repeated",
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="scoring processes; as many as cores")
    limit_s = RewardConfig().deadline_s
    parser.add_argument(
        "--deadline-s", type=float, default=limit_s, metavar="S", help=f"longest time for one answer, in seconds; {limit_s:g}"
    )


def main(parsed: argparse.Namespace) -> int:
    """Score the file and print a summary; 1 if the reward failed on every row."""
    if parsed.processes < 1:
        raise ConfigError(f"--processes: must be at least 1, got {parsed.processes}")
    if not 0 < parsed.deadline_s < float("inf"):
        raise ConfigError(f"--deadline-s: must be above 0, got {parsed.deadline_s:g}")
    from ovt_ray.score import named_reward, score_file, summary

    reward = named_reward(parsed.reward, parsed.option)
    tally = score_file(parsed.source, parsed.output, reward, parsed.processes, deadline_s=parsed.deadline_s)
    print(summary(tally.outcomes, parsed.output))
    return 1 if tally.is_in_vain else 0
