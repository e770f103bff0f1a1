"""`ovt-ray run`: the whole recipe, or the rest of it."""

import argparse
from pathlib import Path

from ovt_ray.commands.config_arguments import add_config_arguments, load
from ovt_ray.core.config.run import RunConfig

SUMMARY = "run a config, or go on with its run"
DESCRIPTION = SUMMARY


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config and its overrides."""
    add_config_arguments(parser)


def main(parsed: argparse.Namespace) -> int:
    """Run the recipe; finished stages are kept."""
    config = _outside_job_package(load(parsed))
    from ovt_ray.recipe import run_recipe

    run_recipe(config)
    return 0


def _outside_job_package(config: RunConfig) -> RunConfig:
    """Return the config with its run folder outside the copy of the working directory that Ray made for a job.

    Ray deletes that copy at any time, so a relative `runs_dir` then starts at the home directory.
    """
    inside_copy = "working_dir_files" in Path.cwd().parts
    if config.runs_dir.is_absolute() or not inside_copy:
        return config
    return config.model_copy(update={"runs_dir": Path.home() / "ovt_ray" / config.runs_dir})
