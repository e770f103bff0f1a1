"""From samples to tensors: which rank takes which samples, which of them share a forward pass, and how that pass is laid out.

Pure: no model, no processes. Per-token values of completions are flat, (N,), so nothing downstream sees padding.
Dimension letters: B sequences, T padded length, N completion tokens, U distinct images, I images shown (G times that of a group).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Self

import torch
from torch import Tensor

from ovt_ray.types import TrainSample


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedPrompt:
    """A prompt as the model takes it; the completions of one problem share it."""

    ids: tuple[int, ...]
    """(T,) image placeholders expanded."""
    position_ids: Tensor
    """(3, T) positions in time, height and width (M-RoPE); three equal rows for text."""
    pixel_values: Tensor | None
    """(num_patches, patch_dim) of all its images; None without images."""
    image_grid_thw: Tensor | None
    """(num_images, 3)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSequence:
    """A sample with its rendered prompt."""

    prompt: RenderedPrompt
    sample: TrainSample

    @property
    def num_tokens(self) -> int:
        """Prompt and completion together."""
        return len(self.prompt.ids) + len(self.sample.completion_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """The tensors of one forward pass. Rows are padded on the right; values at padding are never read."""

    input_ids: Tensor
    """(B, T) int64"""
    attention_mask: Tensor
    """(B, T) int64, 1 on tokens"""
    position_ids: Tensor
    """(3, B, T) int64"""
    pixel_values: Tensor
    """(num_patches, patch_dim) of the U distinct images; of a blank one where no row has an image."""
    image_grid_thw: Tensor
    """(U, 3) int64"""
    image_index: Tensor
    """(I,) int64: which distinct image each image shown is, row by row. Empty where no row has an image."""
    logit_index: Tensor
    """(N,) int64 into B * T: the position whose logits predict each completion token."""
    target_ids: Tensor
    """(N,) int64"""
    loss_mask: Tensor
    """(N,) float32, 0 on tokens that no answer may hold and in a micro-batch without samples"""
    sequence_index: Tensor
    """(N,) int64: which row each completion token belongs to"""
    rollout_logprobs: Tensor
    """(N,) float32, 0 for SFT"""
    proximal_logprobs: Tensor | None
    """(N,) float32, 0 for SFT; None where no sample has them"""
    advantages: Tensor
    """(N,) float32"""

    def to(self, device: torch.device) -> Self:
        """Return the same micro-batch on a device."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(**{name: None if tensor is None else tensor.to(device) for name, tensor in tensors.items()})


def rank_shares(num_tokens: Sequence[int], num_ranks: int) -> list[range]:
    """Return each rank's run of consecutive samples, cut where the running token count passes the rank's share.

    Consecutive, so that the completions of a problem (one rendering, one image) stay together; balanced within one sample.
    A rank's run is empty if there are too few samples.
    """
    middles = [end - own / 2 for end, own in zip(accumulate(num_tokens), num_tokens, strict=True)]
    total = sum(num_tokens)
    ranks = [min(num_ranks - 1, int(middle * num_ranks / total)) for middle in middles]
    starts = [sum(rank < first for rank in ranks) for first in range(num_ranks + 1)]
    return [range(low, high) for low, high in zip(starts, starts[1:], strict=False)]


def micro_batch_indices(num_tokens: Sequence[int], budget: int) -> list[list[int]]:
    """Return which samples share a forward pass: longest first, at most `budget` padded tokens each.

    A sample longer than the budget goes alone.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(num_tokens)), key=lambda index: -num_tokens[index]):
        if batches and (len(batches[-1]) + 1) * num_tokens[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def collate(sequences: Sequence[TrainSequence], *, blank: RenderedPrompt, filler_id: int, forbidden_ids: frozenset[int]) -> MicroBatch:
    """Return the micro-batch of some sequences; without any, one that gives every parameter a zero gradient.

    `blank` is a prompt with one image, which runs through the vision tower where no row has an image: under ZeRO-3 every rank has
    to run every module. Completion tokens among `forbidden_ids` (image placeholders) are fed as `filler_id` and have no loss.
    """
    rows = [_Row.of(sequence, filler_id, forbidden_ids) for sequence in sequences] or [_Row.empty(filler_id)]
    length = max(len(row.ids) for row in rows)
    images, image_index = _distinct_images([sequence.prompt for sequence in sequences], blank)
    targets = [id for row in rows for id in row.ids[row.start :]]
    position_ids = torch.zeros(3, len(rows), length, dtype=torch.long)
    for number, row in enumerate(rows):
        position_ids[:, number, : len(row.ids)] = row.position_ids
    return MicroBatch(
        input_ids=torch.tensor([row.ids + [filler_id] * (length - len(row.ids)) for row in rows]),
        attention_mask=torch.tensor([[1] * len(row.ids) + [0] * (length - len(row.ids)) for row in rows]),
        position_ids=position_ids,
        pixel_values=torch.cat([image.pixel_values for image in images if image.pixel_values is not None]),
        image_grid_thw=torch.cat([image.image_grid_thw for image in images if image.image_grid_thw is not None]),
        image_index=torch.tensor(image_index, dtype=torch.long),
        logit_index=torch.tensor([n * length + t - 1 for n, row in enumerate(rows) for t in range(row.start, len(row.ids))]),
        target_ids=torch.tensor(targets),
        loss_mask=torch.tensor([value for row in rows for value in row.loss_mask]),
        sequence_index=torch.tensor([number for number, row in enumerate(rows) for _ in row.loss_mask]),
        rollout_logprobs=torch.tensor([value for row in rows for value in row.rollout_logprobs]),
        proximal_logprobs=_proximal_logprobs([sequence.sample for sequence in sequences]),
        advantages=torch.tensor([row.advantage for row in rows for _ in row.loss_mask]),
    )


def _proximal_logprobs(samples: Sequence[TrainSample]) -> Tensor | None:
    """Return them flat, (N,), or None if no sample has any."""
    has_them = {sample.proximal_logprobs is not None for sample in samples if sample.rollout_logprobs is not None}
    assert len(has_them) < 2, "either all RL samples of an update have proximal log-probabilities, or none has"
    rows = [sample.proximal_logprobs or (0.0,) * len(sample.completion_ids) for sample in samples]
    return torch.tensor([value for row in rows for value in row]) if True in has_them else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One row of a micro-batch before padding."""

    ids: list[int]
    start: int
    """Where the completion starts in `ids`."""
    position_ids: Tensor
    loss_mask: list[float]
    rollout_logprobs: tuple[float, ...]
    advantage: float

    @classmethod
    def of(cls, sequence: TrainSequence, filler_id: int, forbidden_ids: frozenset[int]) -> Self:
        prompt, sample = sequence.prompt, sequence.sample
        num_completion = len(sample.completion_ids)
        following = prompt.position_ids.max() + 1 + torch.arange(num_completion)
        return cls(
            ids=[*prompt.ids, *(filler_id if id in forbidden_ids else id for id in sample.completion_ids)],
            start=len(prompt.ids),
            position_ids=torch.cat([prompt.position_ids, following.expand(3, num_completion)], dim=1),
            loss_mask=[float(id not in forbidden_ids) for id in sample.completion_ids],
            rollout_logprobs=sample.rollout_logprobs or (0.0,) * num_completion,
            advantage=sample.advantage,
        )

    @classmethod
    def empty(cls, filler_id: int) -> Self:
        """A row of two tokens, the second of which is a completion without loss."""
        positions = torch.tensor([[0, 1]]).expand(3, 2)
        return cls(ids=[filler_id] * 2, start=1, position_ids=positions, loss_mask=[0.0], rollout_logprobs=(0.0,), advantage=0.0)


def _distinct_images(prompts: Sequence[RenderedPrompt], blank: RenderedPrompt) -> tuple[list[RenderedPrompt], list[int]]:
    """Return the distinct prompts that have images, and for each image shown its number among all of their images."""
    first_image: dict[int, int] = {}
    distinct: list[RenderedPrompt] = []
    num_images = 0
    index: list[int] = []
    for prompt in prompts:
        if prompt.image_grid_thw is None:
            continue
        if id(prompt) not in first_image:
            first_image[id(prompt)] = num_images
            num_images += len(prompt.image_grid_thw)
            distinct.append(prompt)
        first = first_image[id(prompt)]
        index.extend(range(first, first + len(prompt.image_grid_thw)))
    return distinct or [blank], index
