"""The Ray cluster of a run: the resources that its services need, and the connection."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.errors import ConfigError
from reward.pool import CPUS_PER_ACTOR

LOOPBACK = ("127.0.0.1", "localhost")
"""Hosts that Ray replaces by the address of this machine's node."""
REACH_S = 10.0
"""Longest wait for the port of a cluster's address."""


def cpus_needed(config: RunConfig) -> float:
    """Return the logical CPUs that all services of a run ask of Ray."""
    rollout = config.rollout.num_workers * config.rollout.cpus_per_worker
    learner = config.learner.num_ranks * config.learner.cpus_per_rank
    replicas = sum(part.replicas * (part.num_cpus or 0) for part in config.reward.parts)
    return rollout + learner + config.reward.num_actors * CPUS_PER_ACTOR + replicas


def gpus_needed(config: RunConfig) -> float:
    """Return the GPUs that all services of a run ask of Ray, without those that only a reward's own decorator asks for."""
    replicas = sum(part.replicas * (part.num_gpus or 0) for part in config.reward.parts)
    return config.rollout.num_workers * config.rollout.gpus_per_worker + config.learner.num_ranks * config.learner.gpus_per_rank + replicas


@contextmanager
def cluster(config: RunConfig) -> Iterator[None]:
    """Connect to a cluster as `connect` does; a cluster that was started for this ends with the block."""
    starts = connect(config)
    try:
        yield
    finally:
        if starts:
            ray.shutdown()


def connect(config: RunConfig) -> bool:
    """Connect to the cluster named by RAY_ADDRESS, else start one on this machine; return whether it was started.

    Raises ConfigError with the resources asked for and present if the cluster has too few.
    """
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    starts = "RAY_ADDRESS" not in os.environ
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if starts:
        num_cpus = max(os.cpu_count() or 1, int(cpus_needed(config)) + 1)
        ray.init("local", num_cpus=num_cpus, include_dashboard=False, **quiet)
    elif not ray.is_initialized():  # the checks of a start have joined it
        _join(os.environ["RAY_ADDRESS"], quiet)
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own in place, which ends the driver before services are closed
    wanted = {"CPU": cpus_needed(config), "GPU": gpus_needed(config)}
    present = ray.cluster_resources()
    for name, amount in wanted.items():
        if amount > present.get(name, 0) + 1e-6:  # shares of a GPU add up to a little more than a whole one
            raise ConfigError(
                f"rollout.num_workers, learner.num_ranks: together they ask for {amount:g} {name}, the cluster has "
                f"{present.get(name, 0):g}: lower them, their {name.lower()}s_per_worker or _per_rank, or add nodes"
            )
    return starts


def _join(address: str, quiet: dict[str, Any]) -> None:
    try:
        _reach(address)
        ray.init(**quiet)
    except (OSError, RayError, RuntimeError) as error:
        raise ConfigError(
            f"RAY_ADDRESS={address}: no cluster answers there ({str(error).splitlines()[0]}); start one, correct the address, or unset it. "
            "A cluster that asks for a token needs RAY_AUTH_MODE=token"
        ) from error


def _reach(address: str) -> None:
    """Raise OSError if nothing listens at a `host:port`, which Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in address and host not in LOOPBACK:
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
