"""Prompts rendered once and kept: the completions of a problem share theirs, and so do the updates of one step."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from learner.batching import PromptBlock, RenderedPrompt
from learner.packing import Block
from ovt_ray.core.errors import LearnerError
from ovt_ray.core.prompts import PromptInputs, Prompts, blank_problem
from ovt_ray.core.types import Problem, TrainSample

CACHE_BYTES = 256 * 2**20
"""Rendered prompts kept between updates; the least recently used go first."""


class Positions(Protocol):
    """The model's own rule for the positions of a prompt's tokens."""

    def __call__(self, ids: Tensor, images: Mapping[str, Tensor]) -> Tensor:
        """Return (A, T) positions of a prompt's ids, (T,)."""


class PromptCache:
    """Renders the prompts of samples, each problem once while it stays in the cache."""

    def __init__(self, prompts: Prompts, positions: Positions) -> None:
        self._prompts = prompts
        self._positions = positions
        self._kept: OrderedDict[Problem, RenderedPrompt] = OrderedDict()
        self._num_bytes = 0
        self.blank = self._place(prompts.inputs(blank_problem()))
        """A prompt with one small image, for passes in which no sample has one."""

    def block(self, index: int, sample: TrainSample) -> PromptBlock:
        """Return the sample, number `index` of its update, behind its rendered prompt.

        Raises LearnerError if the rollout engine saw another prompt than the learner renders.
        """
        prompt = self._prompt(sample.problem)
        if sample.prompt_ids is not None and sample.prompt_ids != prompt.ids:
            raise LearnerError(
                f"problem {sample.problem.id}: the rollout engine saw a prompt of {len(sample.prompt_ids)} tokens, the learner renders "
                f"another of {len(prompt.ids)}; both must use the same model folder, model.max_pixels, system_prompt and instruction"
            )
        return Block(prompt=prompt, num_prompt=len(prompt.ids), indices=(index,), samples=(sample,))

    def _prompt(self, problem: Problem) -> RenderedPrompt:
        if problem in self._kept:
            self._kept.move_to_end(problem)
            return self._kept[problem]
        prompt = self._place(self._prompts.inputs(problem))
        self._kept[problem] = prompt
        self._num_bytes += _num_bytes(prompt)
        while self._num_bytes > CACHE_BYTES and len(self._kept) > 1:
            self._num_bytes -= _num_bytes(self._kept.popitem(last=False)[1])
        return prompt

    def _place(self, inputs: PromptInputs) -> RenderedPrompt:
        return RenderedPrompt(
            ids=inputs.prompt_ids,
            position_ids=self._positions(torch.tensor(inputs.prompt_ids), inputs.images),
            images=inputs.images,
        )


def _num_bytes(prompt: RenderedPrompt) -> int:
    return sum(tensor.nbytes for tensor in prompt.images.values()) + prompt.position_ids.nbytes + 8 * len(prompt.ids)
