"""`ovt-ray replay`: a kept step of GRPO, learnt from or generated again."""

import argparse
from pathlib import Path

SUMMARY = "learn from, or generate, a kept step of GRPO again"
DESCRIPTION = """Learn from the groups of a step again and draw them again with their seeds, in a run with grpo.keep_rollouts; print the
comparison with the record, and the time. Step 0 begins from the weights that it had then and has to come out the same. The weights of later
steps are gone: they begin from the stage's first model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run folder, the stage and the step."""
    parser.add_argument("run_dir", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("stage", metavar="STAGE", help="for example iter1/grpo")
    parser.add_argument("step", type=int, metavar="STEP", help="counted from 0, as in metrics.jsonl")
    parser.add_argument("--only", choices=("learn", "generate"), help="half of the step, without the services of the other")


def main(parsed: argparse.Namespace) -> int:
    """Return 0 if the step comes out as it was recorded, else 1."""
    from ovt_ray.rl.replay import replay

    return 0 if replay(parsed.run_dir, parsed.stage, parsed.step, [parsed.only] if parsed.only else ["learn", "generate"]) else 1
