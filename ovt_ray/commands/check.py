"""`ovt-ray check`: everything that can be known to be wrong before anything expensive starts."""

import json
import os
import tempfile
from pathlib import Path

from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.errors import ConfigError
from ovt_ray.core.types import Problem
from ovt_ray.data.tasks import Wanted, check_amounts, load_tasks


def check_run(config: RunConfig) -> None:
    """Load the reward, read the data, render a problem, look at the model, ask the endpoints, count what stages train, compare the cluster.

    Prints each, and DeepSpeed's config. Raises ConfigError, DataError, LearnerError or RewardError for the first thing that is wrong.
    """
    from learner.requirements import check_model
    from ovt_ray.core.prompts import model_path
    from reward.check import check_rewards

    check_rewards(config.reward)
    for part in config.reward.parts:
        print(f"reward: {part.name} loads, weight {part.weight:g}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        check_model(model_path(config.model), config.learner.layout)
        problem = _check_data(config, Path(folder))
        _check_prompt(config, problem)
        _check_teachers(config, problem)
    _check_endpoints(config)
    _check_parts(config)
    _check_deepspeed(config)
    _check_cluster(config)


def _check_data(config: RunConfig, folder: Path) -> Problem:
    """Return a problem of the run's data."""
    from ovt_ray.data.control_tokens import without_control_tokens

    tasks = load_tasks(config.data, config.seed, folder / "images", config.problem_folder)
    tasks = without_control_tokens(tasks, config)
    for message in tasks.loaded.dropped if tasks.loaded else ():
        print(f"left out: {message}")
    check_amounts(tasks, config.iterations)
    if tasks.loaded is not None:
        print(f"data: {len(tasks.loaded.train)} problems to learn from, {len(tasks.loaded.held_out)} held out", flush=True)
    return tasks.train(Wanted(purpose="check", num=1))[0]


def _check_prompt(config: RunConfig, problem: Problem) -> None:
    """Render the problem as both sides will; raises ConfigError if it leaves no room for an answer."""
    from ovt_ray.core.prompts import Prompts, model_path

    prompts = Prompts(model_path(config.model), config.model)
    num_tokens = len(prompts.inputs(problem).prompt_ids)
    print(
        f"prompt of problem {problem.id}, {num_tokens} tokens with its {len(problem.images)} image(s):\n{prompts.text(problem)}", flush=True
    )
    room = config.rollout.max_model_len - config.max_completion_tokens
    if num_tokens > room:
        raise ConfigError(
            f"rollout.max_model_len: {config.rollout.max_model_len} less {config.max_completion_tokens} of max_completion_tokens leaves "
            f"{room} tokens, problem {problem.id} needs {num_tokens}: raise it, or lower model.max_pixels (now {config.model.max_pixels})"
        )


def _check_teachers(config: RunConfig, problem: Problem) -> None:
    """Render what the reasoner is asked about the problem, if the run has teachers; raises ConfigError if one cannot be loaded."""
    from ovt_ray.core.prompts import Prompts
    from ovt_ray.distillation.reasoner_text import captioned
    from ovt_ray.distillation.teachers import check_teachers, reasoner_model

    if not config.has_teachers:
        return
    check_teachers(config.captioner, config.reasoner)
    model = reasoner_model(config.reasoner)
    prompts = Prompts(model.path, model)
    asked = captioned(problem, "(caption)", config.reasoner.instruction, prompts.added_tokens)
    print(f"captioner: {config.captioner.path}; reasoner: {model.path}, asked:\n{prompts.text(asked)}", flush=True)


def _check_endpoints(config: RunConfig) -> None:
    """Ask each endpoint that writes chains for its models."""
    from ovt_ray.distillation.endpoint import check_endpoint

    for number, turn in enumerate(config.iterations):
        if turn.distil and (endpoint := turn.distil.endpoint):
            check_endpoint(endpoint, f"iterations.{number}.distil.endpoint")
            print(f"iterations.{number}.distil.endpoint: {endpoint.url} answers and has {endpoint.model}", flush=True)


def _check_parts(config: RunConfig) -> None:
    """Count the weights that each stage trains, on a model without memory."""
    from learner.adapters import add_adapters
    from learner.model import empty_model
    from learner.parts import freeze
    from ovt_ray.core.prompts import model_path

    path, lora = model_path(config.model), config.learner.lora
    for name, optimizer in config.optimizers.items():
        model = empty_model(path)
        num_weights = model.num_parameters()
        freeze(model, optimizer.freeze)
        if lora:
            add_adapters(model, lora, config.seed)
        num_trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        how = f", in adapters of rank {lora.rank} on the linear layers of {', '.join(lora.parts)}" if lora else ""
        print(f"{name}: trains {num_trained:,} of {num_weights:,} weights{how}", flush=True)


def _check_deepspeed(config: RunConfig) -> None:
    from learner.deepspeed_config import deepspeed_config, reference_config

    for max_grad_norm in sorted({optimizer.max_grad_norm for optimizer in config.optimizers.values()}):
        print(f"DeepSpeed: {json.dumps(deepspeed_config(config.learner, max_grad_norm))}", flush=True)
    has_reference = config.learner.lora is None and any(turn.grpo.kl_coef for turn in config.iterations)
    if has_reference and (settings := reference_config(config.learner))["zero_optimization"]["stage"] == 3:
        print(f"DeepSpeed, reference: {json.dumps(settings)}", flush=True)


def _check_cluster(config: RunConfig) -> None:
    """Compare with the cluster of RAY_ADDRESS, else with this machine, on which logical CPUs may be shared."""
    from ovt_ray.cluster import connect, cpus_needed, gpus_needed

    asked = f"{cpus_needed(config):g} CPU, {gpus_needed(config):g} GPU"
    if "RAY_ADDRESS" in os.environ:
        connect(config)
        print(f"cluster: the services ask for {asked}, which {os.environ['RAY_ADDRESS']} has")
    else:
        print(
            f"machine: the services ask for {asked} (logical; this machine has {os.cpu_count()} cores). Set RAY_ADDRESS to check a cluster"
        )
