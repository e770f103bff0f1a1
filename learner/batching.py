"""The tensors of one forward pass. Pure: no model, no processes.

Per-token values of completions are flat, (N,), in the order of the blocks, so nothing downstream sees padding or packing.
Dimension letters: B rows, T longest row, N completion tokens, A position axes (3 for M-RoPE, else 1).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self, TypeAlias

import torch
from torch import Tensor

from learner.attention import BlockSpan
from learner.packing import Block
from ovt_ray.core.config.run import Layout
from ovt_ray.core.types import TrainSample


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedPrompt:
    """A prompt in the form that the model takes."""

    ids: tuple[int, ...]
    """(T,) image placeholders expanded."""
    position_ids: Tensor
    """(A, T) places of its tokens: in time, height and width (M-RoPE), or in the text alone."""
    images: Mapping[str, Tensor]
    """Tensors that the processor makes of its images, by the names of the model's arguments; empty without images."""


PromptBlock: TypeAlias = Block[RenderedPrompt]


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """One forward pass. Rows are padded on the right; values at padding are never read."""

    input_ids: Tensor
    """(B, T) int64"""
    position_ids: Tensor
    """(A, B, T) int64"""
    attention_mask: Tensor | None
    """(B, T) int64, 1 on tokens, where each row is one sequence; None for a pack."""
    spans: tuple[BlockSpan, ...] | None
    """The blocks of a pack, which is a single row; None where each row is one sequence."""
    images: dict[str, Tensor]
    """Tensors of all images shown, by the names of the model's arguments, in the order of their placeholders. Never empty."""
    logit_index: Tensor
    """(N,) int64 into B * T: the position whose logits predict each completion token."""
    target_ids: Tensor
    """(N,) int64"""
    loss_mask: Tensor
    """(N,) float32, 0 on tokens that no answer may hold and in a micro-batch without samples"""
    sequence_index: Tensor
    """(N,) int64: which sample each completion token belongs to"""
    rollout_logprobs: Tensor
    """(N,) float32, 0 for SFT"""
    proximal_logprobs: Tensor | None
    """(N,) float32, 0 for SFT; None where no sample has them"""
    advantages: Tensor
    """(N,) float32"""

    def to(self, device: torch.device) -> Self:
        """Return the same micro-batch on a device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return type(self)(**(values | moved | {"images": {name: value.to(device) for name, value in self.images.items()}}))


def collate(
    blocks: Sequence[PromptBlock], layout: Layout, *, blank: RenderedPrompt, filler_id: int, forbidden_ids: frozenset[int]
) -> MicroBatch:
    """Return the micro-batch of some blocks; without any, one that gives every parameter a zero gradient.

    `blank` is a prompt with one image. It is shown where no block has an image: under ZeRO-3 every rank has to run every module.
    Completion tokens among `forbidden_ids` (image placeholders) are fed as `filler_id` and have no loss.
    """
    if not any(block.prompt.images for block in blocks):
        blocks = [*blocks, Block(prompt=blank, num_prompt=len(blank.ids))]
    # Every flat value below follows this order: the model's output is matched by place alone.
    samples = [sample for block in blocks for sample in block.samples]
    allowed = [[id not in forbidden_ids for id in sample.completion_ids] for sample in samples]
    # A placeholder in an answer would claim the features of an image that is not there.
    completions = [
        [id if fits else filler_id for id, fits in zip(sample.completion_ids, row, strict=True)]
        for sample, row in zip(samples, allowed, strict=True)
    ]
    rows = [[block] for block in blocks] if layout == "padded" else [list(blocks)]
    # Without each last token: it is a target only, and predicts nothing.
    fed = iter([completion[:-1] for completion in completions])
    ids = [[id for block in row for part in (block.prompt.ids, *(next(fed) for _ in block.samples)) for id in part] for row in rows]
    length = max(map(len, ids))
    spans = tuple(BlockSpan(num_prompt=block.num_prompt, num_completion=block.num_fed) for block in blocks)
    return MicroBatch(
        input_ids=torch.tensor([row + [filler_id] * (length - len(row)) for row in ids]),
        position_ids=torch.stack([_row_positions(row, length) for row in rows], dim=1),
        # A mask only for padded rows: that of a pack would grow with the square of its length.
        attention_mask=torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ids]) if layout == "padded" else None,
        spans=None if layout == "padded" else spans,
        images=_joined([block.prompt.images for block in blocks if block.prompt.images]),
        logit_index=_integers(n * length + t for n, row in enumerate(rows) for t in _logit_places(row)),
        target_ids=_integers(id for completion in completions for id in completion),
        loss_mask=_floats(fits for row in allowed for fits in row),
        sequence_index=_integers(number for number, row in enumerate(completions) for _ in row),
        rollout_logprobs=_floats(value for sample in samples for value in sample.rollout_logprobs or (0,) * len(sample.completion_ids)),
        proximal_logprobs=_proximal_logprobs(samples),
        advantages=_floats(sample.advantage for sample in samples for _ in sample.completion_ids),
    )


def _row_positions(row: Sequence[PromptBlock], length: int) -> Tensor:
    """Return (A, T) positions of a row's blocks, 0 at padding; every completion's go on from its prompt's largest."""
    parts = []
    for block in row:
        prompt = block.prompt.position_ids
        # From the largest position on any axis: there M-RoPE goes on after an image.
        following = [prompt.max() + 1 + torch.arange(number) for number in block.num_fed]
        parts += [prompt, *(part.expand(len(prompt), -1) for part in following)]
    positions = torch.cat(parts, dim=1)
    return torch.nn.functional.pad(positions, (0, length - positions.shape[1]))


def _logit_places(row: Sequence[PromptBlock]) -> Iterator[int]:
    """Yield the place in a row whose logits predict each completion token; the prompt's last predicts the first of each completion."""
    start = 0
    for block in row:
        after = start + block.num_prompt
        for number in block.num_fed:
            yield start + block.num_prompt - 1
            yield from range(after, after + number)
            after += number
        start = after


def _joined(images: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the images' tensors one after the other; where images differ in shape (numbers of tiles), zeros fill them up."""
    return {name: _padded_cat([image[name] for image in images]) for name in images[0]}


def _padded_cat(tensors: Sequence[Tensor]) -> Tensor:
    sizes = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    gaps = [[(size - own) for size, own in zip(sizes, tensor.shape[1:], strict=True)] for tensor in tensors]
    return torch.cat(
        # Reversed, as `pad` counts from the last dimension.
        [torch.nn.functional.pad(tensor, [n for gap in reversed(row) for n in (0, gap)]) for tensor, row in zip(tensors, gaps, strict=True)]
    )


def _integers(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.long)


def _floats(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32)


def _proximal_logprobs(samples: Sequence[TrainSample]) -> Tensor | None:
    """Return them flat, (N,), or None if no sample has any."""
    # A mixture would put the clip range of some tokens around another policy.
    has_them = {sample.proximal_logprobs is not None for sample in samples if sample.rollout_logprobs is not None}
    assert len(has_them) < 2, "either all RL samples of an update have proximal log-probabilities, or none has"
    rows = [sample.proximal_logprobs or (0.0,) * len(sample.completion_ids) for sample in samples]
    return _floats(value for row in rows for value in row) if True in has_them else None
