"""`ovt-ray check`: every mistake that can be found before anything expensive starts."""

import argparse
import json

from ovt_ray.commands.config_arguments import add_config_arguments, load
from ovt_ray.core.config.run import RunConfig

SUMMARY = "validate a config, its reward, its data and its model without running it"
DESCRIPTION = SUMMARY


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config and its overrides."""
    add_config_arguments(parser)


def main(parsed: argparse.Namespace) -> int:
    """Make the checks of a start and print their findings, and every configuration that DeepSpeed gets."""
    config = load(parsed)
    print(f"{parsed.config}: the configuration is valid", flush=True)
    from ovt_ray.run.results import stage_keys
    from ovt_ray.start_checks import check_start

    found = check_start(config, config.run_dir / "images", stage_keys(config.iterations))
    if found.tasks:
        print(*(f"left out: {message}\n" for message in found.tasks.dropped), sep="", end="")
    print("\n".join([*found.lines, *_deepspeed_lines(config)]), flush=True)
    found.require()
    return 0


def _deepspeed_lines(config: RunConfig) -> list[str]:
    from learner.deepspeed_config import deepspeed_config, reference_config

    norms = sorted({optimizer.max_grad_norm for optimizer in config.optimizers.values()})
    lines = [f"DeepSpeed: {json.dumps(deepspeed_config(config.learner, norm))}" for norm in norms]
    has_reference = config.learner.lora is None and any(turn.grpo.kl_coef for turn in config.iterations)
    if has_reference and (settings := reference_config(config.learner))["zero_optimization"]["stage"] == 3:
        lines.append(f"DeepSpeed, reference: {json.dumps(settings)}")
    return lines
