"""How samples are split: over ranks, over blocks with one copy of a prompt, and over forward passes.

Pure and without tensors: everything follows from lengths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, TypeVar

from ovt_ray.core.config.run import Layout
from ovt_ray.core.types import TrainSample

Prompt = TypeVar("Prompt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block(Generic[Prompt]):
    """A prompt and the samples that go on from it."""

    prompt: Prompt
    num_prompt: int
    """Token count of the prompt."""
    indices: tuple[int, ...] = ()
    """Places of the samples in the update."""
    samples: tuple[TrainSample, ...] = ()
    """Samples at these places; empty for a prompt that is only shown."""

    @property
    def num_fed(self) -> tuple[int, ...]:
        """Count of the tokens of each completion that the model is fed: all except the last, which predicts nothing."""
        return tuple(len(sample.completion_ids) - 1 for sample in self.samples)

    @property
    def num_tokens(self) -> int:
        """Count of the tokens that the model is fed."""
        return self.num_prompt + sum(self.num_fed)


def rank_shares(num_tokens: Sequence[int], num_ranks: int) -> list[range]:
    """Return each rank's run of consecutive samples, cut where the running token count passes the rank's share.

    Consecutive, so that the completions of a problem (one rendering, one image) stay together; balanced within one sample.
    A rank's run is empty if there are too few samples.
    """
    # By a sample's middle: cut by its start or end, a rank could be off by a whole long sample.
    middles = [end - own / 2 for end, own in zip(accumulate(num_tokens), num_tokens, strict=True)]
    total = sum(num_tokens)
    # Rounding may put the last middle at the very end, which would be one rank too many.
    ranks = [min(num_ranks - 1, int(middle * num_ranks / total)) for middle in middles]
    starts = [sum(rank < first for rank in ranks) for first in range(num_ranks + 1)]
    return [range(low, high) for low, high in zip(starts, starts[1:], strict=False)]


def micro_batches(samples: Sequence[Block[Prompt]], layout: Layout, budget: int) -> list[list[Block[Prompt]]]:
    """Return the blocks of each forward pass, from blocks of one sample each.

    A pass has at most `budget` tokens, with its padding if it is padded; a sample that is longer goes alone.
    """
    if layout == "padded":
        return _padded(samples, budget)
    blocks = _shared(samples, budget) if layout == "shared_prompts" else list(samples)
    return _first_fit(blocks, budget)


def _shared(samples: Sequence[Block[Prompt]], budget: int) -> list[Block[Prompt]]:
    """Return blocks in which samples of one prompt share it; a prompt with too many of them comes more than once."""
    open_blocks: dict[int, list[Block[Prompt]]] = {}
    done: list[list[Block[Prompt]]] = []
    for sample in samples:
        # By identity: the prompt cache gives all samples of a problem the same object.
        members = open_blocks.get(id(sample.prompt), [])
        if members and _joined([*members, sample]).num_tokens <= budget:
            members.append(sample)
        else:
            open_blocks[id(sample.prompt)] = [sample]
            done.append(open_blocks[id(sample.prompt)])
    return [_joined(members) for members in done]


def _joined(members: Sequence[Block[Prompt]]) -> Block[Prompt]:
    return Block(
        prompt=members[0].prompt,
        num_prompt=members[0].num_prompt,
        indices=tuple(index for member in members for index in member.indices),
        samples=tuple(sample for member in members for sample in member.samples),
    )


def _first_fit(blocks: Sequence[Block[Prompt]], budget: int) -> list[list[Block[Prompt]]]:
    """Return the blocks in packs, the longest first, each in the first pack that has room for it."""
    packs: list[list[Block[Prompt]]] = []
    room: list[int] = []
    # Longest first wastes the least room. The sort is stable, so the packs are the same in every run.
    for block in sorted(blocks, key=lambda block: -block.num_tokens):
        place = next((place for place, left in enumerate(room) if block.num_tokens <= left), len(packs))
        if place == len(packs):
            packs.append([])
            room.append(budget)
        packs[place].append(block)
        room[place] -= block.num_tokens
    return packs


def _padded(samples: Sequence[Block[Prompt]], budget: int) -> list[list[Block[Prompt]]]:
    """Return the samples in batches of similar length, the longest first."""
    batches: list[list[Block[Prompt]]] = []
    # Longest first: a batch's first row sets its width, and no later row widens it.
    for sample in sorted(samples, key=lambda sample: -sample.num_tokens):
        if batches and (len(batches[-1]) + 1) * batches[-1][0].num_tokens <= budget:
            batches[-1].append(sample)
        else:
            batches.append([sample])
    return batches


def known_tokens(samples: Sequence[TrainSample], *, shares_prompts: bool) -> list[int]:
    """Return the count of each sample's tokens that is known before rendering.

    A shared prompt counts with its first sample. A prompt that no engine has rendered (SFT) does not count.
    """
    # Before rendering: all ranks have to agree on the shares, and each renders only its own.
    seen: set[str] = set()
    numbers = []
    for sample in samples:
        is_fed = not shares_prompts or sample.problem.id not in seen
        seen.add(sample.problem.id)
        numbers.append(len(sample.completion_ids) + (len(sample.prompt_ids or ()) if is_fed else 0))
    return numbers
