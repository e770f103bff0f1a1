"""Contract: every completion token is scored once, at its own position, by the right rank, whatever the lengths and images."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.batching import MicroBatch, RenderedPrompt, TrainSequence, collate, micro_batch_indices, rank_shares
from ovt_ray.types import AnswerKind, Problem, TrainSample

PAD, IMAGE = 9, 7


def prompt(ids: tuple[int, ...], num_images: int = 0, fill: float = 0.0) -> RenderedPrompt:
    """A prompt at positions 0, 1, ..., with `num_images` images of 4 patches of 2 values."""
    return RenderedPrompt(
        ids=ids,
        position_ids=torch.arange(len(ids)).expand(3, -1),
        pixel_values=torch.full((4 * num_images, 2), fill) if num_images else None,
        image_grid_thw=torch.tensor([[1, 2, 2]] * num_images) if num_images else None,
    )


BLANK = prompt((IMAGE,), num_images=1, fill=-1.0)


def sequence(
    rendered: RenderedPrompt, completion: tuple[int, ...], logprobs: tuple[float, ...] | None = None, advantage: float = 1.0
) -> TrainSequence:
    problem = Problem(id="p", question="?", images=(), answer="a", kind=AnswerKind.TEXT)
    sample = TrainSample(problem=problem, completion_ids=completion, rollout_logprobs=logprobs, advantage=advantage)
    return TrainSequence(prompt=rendered, sample=sample)


def batch_of(*sequences: TrainSequence) -> MicroBatch:
    return collate(sequences, blank=BLANK, filler_id=PAD, forbidden_ids=frozenset({IMAGE}))


def test_two_rows_by_hand() -> None:
    batch = batch_of(sequence(prompt((1, 2, 3)), (4, 5), (-0.1, -0.2), 2.0), sequence(prompt((1,)), (6,), (-0.3,), -1.0))
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5], [1, 6, PAD, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch.position_ids[0].tolist() == [[0, 1, 2, 3, 4], [0, 1, 0, 0, 0]]
    # the logits at the prompt's last token predict the first completion token
    assert batch.logit_index.tolist() == [2, 3, 5]
    assert batch.target_ids.tolist() == [4, 5, 6]
    assert batch.loss_mask.tolist() == [1, 1, 1]
    assert batch.rollout_logprobs.tolist() == pytest.approx([-0.1, -0.2, -0.3])
    assert batch.advantages.tolist() == [2, 2, -1]
    assert batch.sequence_index.tolist() == [0, 0, 1]
    assert batch.proximal_logprobs is None


def test_proximal_log_probabilities_come_along_where_samples_have_them() -> None:
    first, second = (sequence(prompt((1, 2)), (4, 5), (-0.1, -0.2)), sequence(prompt((1,)), (6,), (-0.3,)))
    both = [replace(item, sample=replace(item.sample, proximal_logprobs=row)) for item, row in [(first, (-0.5, -0.6)), (second, (-0.7,))]]
    proximal = batch_of(*both).to(torch.device("cpu")).proximal_logprobs
    assert proximal is not None and proximal.tolist() == pytest.approx([-0.5, -0.6, -0.7])
    trace = sequence(prompt((1,)), (6, 8))
    proximal = batch_of(trace, *both).proximal_logprobs
    assert proximal is not None and proximal.tolist() == pytest.approx([0, 0, -0.5, -0.6, -0.7])
    assert batch_of(trace).proximal_logprobs is None
    with pytest.raises(AssertionError, match="either all RL samples"):
        batch_of(both[0], second)


def test_a_completion_may_hold_the_padding_id_and_is_still_learnt_from() -> None:
    batch = batch_of(sequence(prompt((1,)), (4, PAD)), sequence(prompt((1, 2)), (4, 5)))
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.loss_mask.tolist() == [1, 1, 1, 1] and batch.target_ids.tolist() == [4, PAD, 4, 5]


def test_an_image_placeholder_in_a_completion_is_replaced_and_has_no_loss() -> None:
    batch = batch_of(sequence(prompt((1,)), (4, IMAGE, 5)))
    assert batch.input_ids.tolist() == [[1, 4, PAD, 5]]
    assert batch.loss_mask.tolist() == [1, 0, 1]


def test_completion_positions_go_on_from_the_largest_of_the_prompt() -> None:
    # two text tokens, an image of 1 x 1 x 2 tokens, one text token: M-RoPE counts the image's width once
    positions = torch.tensor([[0, 1, 2, 2, 4], [0, 1, 2, 2, 4], [0, 1, 2, 3, 4]])
    rendered = RenderedPrompt(ids=(1, 2, 7, 7, 3), position_ids=positions, pixel_values=None, image_grid_thw=None)
    batch = batch_of(sequence(rendered, (5, 6)))
    assert batch.position_ids[:, 0].tolist() == [[0, 1, 2, 2, 4, 5, 6], [0, 1, 2, 2, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6]]


def test_completions_of_one_prompt_share_its_images_and_others_keep_theirs() -> None:
    first, text, second = prompt((7, 7), 2, fill=1.0), prompt((1,)), prompt((7,), 1, fill=2.0)
    batch = batch_of(*(sequence(rendered, (4,)) for rendered in (first, text, second, first)))
    assert batch.pixel_values[:, 0].tolist() == [1.0] * 8 + [2.0] * 4
    assert batch.image_grid_thw.shape == (3, 3)
    assert batch.image_index.tolist() == [0, 1, 2, 0, 1]


def test_a_batch_without_images_carries_a_blank_one_that_is_not_shown() -> None:
    batch = batch_of(sequence(prompt((1,)), (4,)))
    assert batch.pixel_values[:, 0].tolist() == [-1.0] * 4 and batch.image_index.tolist() == []


def test_a_batch_without_samples_has_one_token_and_no_loss() -> None:
    batch = batch_of()
    assert batch.input_ids.tolist() == [[PAD, PAD]]
    assert batch.loss_mask.tolist() == [0] and batch.logit_index.tolist() == [0]
    assert torch.isfinite(batch.rollout_logprobs).all()


def test_shares_by_hand() -> None:
    assert rank_shares([10, 10, 10, 10], 2) == [range(0, 2), range(2, 4)]
    assert rank_shares([30, 10, 10, 10], 2) == [range(0, 1), range(1, 4)]
    assert rank_shares([5], 3) == [range(0, 0), range(0, 1), range(1, 1)]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 5))
def test_every_sample_goes_to_one_rank_and_shares_differ_from_even_by_at_most_one_sample(lengths: list[int], num_ranks: int) -> None:
    shares = rank_shares(lengths, num_ranks)
    assert [index for share in shares for index in share] == list(range(len(lengths)))
    for share in shares:
        assert abs(sum(lengths[index] for index in share) - sum(lengths) / num_ranks) <= max(lengths)


def test_micro_batches_by_hand() -> None:
    assert micro_batch_indices([3, 9, 4, 20], budget=12) == [[3], [1], [2, 0]]


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(16, 200))
def test_micro_batches_hold_every_sample_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = micro_batch_indices(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget for batch in batches)
