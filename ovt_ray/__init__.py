"""Trains vision-language models to reason: distillation, SFT and GRPO as one job on one Ray cluster."""

__version__ = "0.1.0"
