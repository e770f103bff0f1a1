"""The arguments of every command that reads the YAML file of a run."""

import argparse
import sys
from pathlib import Path

from ovt_ray.core.config.file import load_config
from ovt_ray.core.config.run import RunConfig


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file and the overrides."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, for example configs/tiny.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example seed=1 iterations[0].grpo.num_steps=5")


def load(parsed: argparse.Namespace) -> RunConfig:
    """Return the configuration, and print its warnings. Raises ConfigError naming the key that is wrong."""
    config = load_config(parsed.config, parsed.overrides)
    for warning in config.warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    return config
