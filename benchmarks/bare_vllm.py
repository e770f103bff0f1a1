"""Baseline of `benchmarks.rollout`: `vllm.LLM.generate` in its own process, with the engine and sampling of a rollout worker."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from actors.worker import engine_arguments, sampling_params
from ovt_ray.core.config.run import ModelConfig, RolloutConfig
from ovt_ray.core.prompts import Prompts
from ovt_ray.core.types import Problem, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTiming:
    """The cost of a round."""

    seconds: float
    cpu_seconds: float
    """Processor time of all processes that took part."""
    num_tokens: int
    """Token count of all completions."""

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second of wall-clock time."""
        return self.num_tokens / self.seconds

    @property
    def cpu_us_per_token(self) -> float:
        """Processor time per token in microseconds. Other users of the machine change it less than the wall-clock time."""
        return 1e6 * self.cpu_seconds / self.num_tokens


class BareEngine:
    """An engine without any wrapper, in this process."""

    def __init__(self, model_path: str, rollout: RolloutConfig) -> None:
        from vllm import LLM

        arguments = dict(vars(engine_arguments(model_path, rollout)))
        del arguments["enable_log_requests"]  # only for asynchronous engines
        del arguments["scheduler_cls"]  # the pool's own
        self.llm = LLM(**arguments)
        self.prompts = Prompts(model_path, ModelConfig(path=model_path))

    def generate(self, problems: Sequence[Problem], sampling: Sampling) -> EngineTiming:
        """Return the engine's timing. Prompts are tokenized and images decoded before the clock starts."""
        prompts = [
            {"prompt_token_ids": self.prompts.engine_ids(problem), "multi_modal_data": {"image": self.prompts.images(problem)}}
            for problem in problems
        ]
        params = [sampling_params(sampling, problem.id, self.prompts) for problem in problems]
        began, cpu_began = time.monotonic(), time.process_time()
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        return EngineTiming(
            seconds=time.monotonic() - began,
            cpu_seconds=time.process_time() - cpu_began,
            num_tokens=sum(len(choice.token_ids) for output in outputs for choice in output.outputs),
        )
