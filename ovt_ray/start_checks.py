"""Every mistake that can be found in seconds: `ovt-ray run` looks for them before it starts anything, and `ovt-ray check` does only that.

A check that needs the result of another one is skipped where that one fails. All other checks are made, and all mistakes reported.
"""

import os
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

from learner.adapters import add_adapters
from learner.model import empty_model
from learner.parts import freeze
from learner.requirements import check_model
from ovt_ray.cluster import connect, cpus_needed, gpus_needed
from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.config.section import ModelPart
from ovt_ray.core.config.traces import EndpointConfig
from ovt_ray.core.errors import ConfigError, OvtError, StartError
from ovt_ray.core.prompts import Prompts, model_path
from ovt_ray.core.types import Problem
from ovt_ray.data.control_tokens import without_control_tokens
from ovt_ray.data.tasks import Tasks, Wanted, check_amounts, load_tasks
from ovt_ray.distillation.endpoint import check_endpoint
from ovt_ray.distillation.reasoner_text import captioned
from ovt_ray.distillation.teachers import captioner_prompts, reasoner_model, reasoner_prompts
from ovt_ray.run.results import stage_key
from reward.check import check_reward

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(slots=True)
class Findings:
    """The results of all checks."""

    tasks: Tasks | None = None
    """The run's problems; None where they cannot be used."""
    lines: list[str] = field(default_factory=list)
    """Facts for people: the reward, the prompt, the weights to train, the resources."""
    mistakes: list[OvtError | OSError] = field(default_factory=list)
    """Mistakes of independent checks. A mistake that two stages share is in it once."""

    def attempt(self, check: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result | None:
        """Return the result of a check; None if it finds a mistake, which is noted."""
        try:
            return check(*args, **kwargs)
        except (OvtError, OSError) as error:  # a file without access must not hide the mistakes that other checks find
            if str(error) not in map(str, self.mistakes):
                self.mistakes.append(error)
        return None

    def describe(self, check: Callable[Arguments, str], *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        """Note the line that a check returns, or the mistake that it finds."""
        if line := self.attempt(check, *args, **kwargs):
            self.lines.append(line)

    def require(self) -> Tasks:
        """Return the run's problems. Raises the mistake if there is one, and StartError with the text of each if there are several."""
        if len(self.mistakes) == 1:
            raise self.mistakes[0]
        if self.mistakes:
            listed = [f"{number}. {type(error).__name__}: {error}" for number, error in enumerate(self.mistakes, start=1)]
            raise StartError("\n".join([f"{len(listed)} mistakes; the run starts once each is mended", *listed]))
        assert self.tasks is not None, "problems that cannot be used are a mistake"
        return self.tasks


def check_start(config: RunConfig, image_folder: Path, unfinished: Collection[str]) -> Findings:
    """Make all checks of a run, whose embedded world draws into `image_folder` and whose `unfinished` stages are still to be done."""
    found = Findings()
    for part in config.reward.parts:
        found.attempt(check_reward, part, config.reward)
    found.lines += [] if found.mistakes else [f"reward: {part.name} loads, weight {part.weight:g}" for part in config.reward.parts]
    prompts = _check_model(config, found)
    found.tasks = _check_data(config, prompts, image_folder, found)
    with tempfile.TemporaryDirectory() as drawn:  # the run's own images are drawn by its stages alone
        problem = _example(replace(found.tasks, image_folder=Path(drawn)), found) if found.tasks else None
        if prompts and problem:
            _check_prompt(config, prompts, problem, found)
    if config.has_teachers:
        found.attempt(captioner_prompts, config.captioner)
        found.describe(_check_reasoner, config, problem)
    for place, turn in enumerate(config.iterations):
        if turn.distil and turn.distil.endpoint and stage_key(place + 1, "distil") in unfinished:
            found.describe(_check_endpoint, turn.distil.endpoint, f"iterations.{place}.distil.endpoint")
    if prompts:
        _check_parts(config, found)
    if unfinished:
        found.describe(_check_resources, config)
    return found


def _check_model(config: RunConfig, found: Findings) -> Prompts | None:
    """Return the renderer of the model's prompts, None for a model that the learner can train in no layout."""
    path = model_path(config.model)
    prompts = found.attempt(_trainable_prompts, path, config)
    if prompts:
        found.attempt(check_model, path, config.learner.layout)
    return prompts


def _trainable_prompts(path: str, config: RunConfig) -> Prompts:
    check_model(path, "padded")  # every model that can be trained at all can be trained so
    return Prompts(path, config.model)


def _check_data(config: RunConfig, prompts: Prompts | None, image_folder: Path, found: Findings) -> Tasks | None:
    """Return the run's problems: readable, without the model's control tokens, and enough for each stage."""
    tasks = found.attempt(load_tasks, config.data, config.seed, image_folder, config.problem_folder)
    if tasks and prompts:
        tasks = found.attempt(without_control_tokens, tasks, config)
    if tasks is None:
        return None
    for place, turn in enumerate(config.iterations):
        found.attempt(check_amounts, tasks, place, turn)
    if tasks.loaded is not None:
        found.lines.append(f"data: {len(tasks.loaded.train)} problems to learn from, {len(tasks.loaded.held_out)} held out")
    return tasks


def _example(tasks: Tasks, found: Findings) -> Problem | None:
    """Return a problem to learn from, or a held-out one where there is no other; None if the data holds none."""
    if tasks.loaded is not None and not tasks.loaded.train:
        return next(iter(tasks.loaded.held_out), None)
    problems = found.attempt(tasks.train, Wanted(purpose="check", num=1))
    return problems[0] if problems else None


def _check_prompt(config: RunConfig, prompts: Prompts, problem: Problem, found: Findings) -> None:
    """Render the problem as rollout worker and learner will, and see that it leaves room for an answer."""
    rendered = found.attempt(prompts.inputs, problem)
    if rendered is None:
        return
    num_tokens = len(rendered.prompt_ids)
    shown = f"prompt of problem {problem.id}, {num_tokens} tokens with its {len(problem.images)} image(s)"
    found.lines.append(f"{shown}:\n{prompts.text(problem)}")
    found.attempt(_check_room, config, problem.id, num_tokens)


def _check_room(config: RunConfig, problem_id: str, num_tokens: int) -> None:
    room = config.rollout.max_model_len - config.max_completion_tokens
    if num_tokens > room:
        raise ConfigError(
            f"rollout.max_model_len: {config.rollout.max_model_len} less {config.max_completion_tokens} of max_completion_tokens leaves "
            f"{room} tokens, problem {problem_id} needs {num_tokens}: raise it, or lower model.max_pixels (now {config.model.max_pixels})"
        )


def _check_reasoner(config: RunConfig, problem: Problem | None) -> str:
    """Return the teachers' names, and the question to the reasoner about the problem."""
    prompts = reasoner_prompts(config.reasoner)
    names = f"captioner: {config.captioner.path}; reasoner: {reasoner_model(config.reasoner).path}"
    if problem is None:
        return names
    asked = captioned(problem, "(caption)", config.reasoner.instruction, prompts.added_tokens)
    return f"{names}, asked:\n{prompts.text(asked)}"


def _check_endpoint(endpoint: EndpointConfig, key: str) -> str:
    check_endpoint(endpoint, key)
    return f"{key}: {endpoint.url} answers and has {endpoint.model}"


def _check_parts(config: RunConfig, found: Findings) -> None:
    """Count the weights that each stage trains."""
    counted: dict[tuple[ModelPart, ...], str | None] = {}
    for name, optimizer in config.optimizers.items():
        if optimizer.freeze not in counted:
            counted[optimizer.freeze] = found.attempt(_trained_weights, config, optimizer.freeze)
        if count := counted[optimizer.freeze]:
            found.lines.append(f"{name}: trains {count}")


def _trained_weights(config: RunConfig, frozen: tuple[ModelPart, ...]) -> str:
    """Return the number of weights that are trained, counted on a model without memory."""
    model, lora = empty_model(model_path(config.model)), config.learner.lora
    num_weights = model.num_parameters()
    freeze(model, frozen)
    if lora:
        add_adapters(model, lora, config.seed)
    num_trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    how = f", in adapters of rank {lora.rank} on the linear layers of {', '.join(lora.parts)}" if lora else ""
    return f"{num_trained:,} of {num_weights:,} weights{how}"


def _check_resources(config: RunConfig) -> str:
    """Compare the services with the cluster of RAY_ADDRESS. Without a cluster logical CPUs of this machine may be shared."""
    asked = f"{cpus_needed(config):g} CPU, {gpus_needed(config):g} GPU"
    if "RAY_ADDRESS" in os.environ:
        connect(config)
        return f"cluster: the services ask for {asked}, which {os.environ['RAY_ADDRESS']} has"
    return f"machine: the services ask for {asked} (logical; this machine has {os.cpu_count()} cores). Set RAY_ADDRESS to check a cluster"
