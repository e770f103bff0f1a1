"""Contract: every completion token is scored once, at its own position, whatever the layout, the lengths and the images."""

from dataclasses import replace

import pytest
import torch

from learner.attention import BlockSpan
from learner.batching import MicroBatch, PromptBlock, RenderedPrompt, collate
from learner.packing import Block
from ovt_ray.core.config.run import Layout
from ovt_ray.core.types import AnswerKind, Problem, TrainSample

PAD, IMAGE = 9, 7


def prompt(ids: tuple[int, ...], num_images: int = 0, fill: float = 0.0) -> RenderedPrompt:
    """A prompt at positions 0, 1, ..., with `num_images` images of 4 patches of 2 values."""
    images = {"pixel_values": torch.full((4 * num_images, 2), fill), "image_grid_thw": torch.tensor([[1, 2, 2]] * num_images)}
    return RenderedPrompt(ids=ids, position_ids=torch.arange(len(ids)).expand(3, -1), images=images if num_images else {})


BLANK = prompt((IMAGE, 8), num_images=1, fill=-1.0)


def sample(completion: tuple[int, ...], logprobs: tuple[float, ...] | None = None, advantage: float = 1.0) -> TrainSample:
    problem = Problem(id="p", question="?", images=(), answer="a", kind=AnswerKind.TEXT)
    return TrainSample(problem=problem, completion_ids=completion, rollout_logprobs=logprobs, advantage=advantage)


def block(rendered: RenderedPrompt, *samples: TrainSample) -> PromptBlock:
    return Block(prompt=rendered, num_prompt=len(rendered.ids), indices=tuple(range(len(samples))), samples=samples)


def batch_of(*blocks: PromptBlock, layout: Layout = "shared_prompts") -> MicroBatch:
    return collate(blocks, layout, blank=BLANK, filler_id=PAD, forbidden_ids=frozenset({IMAGE}))


PICTURE = prompt((IMAGE, 1, 2), num_images=1)


def test_a_pack_by_hand() -> None:
    shared = block(PICTURE, sample((4, 5, 6), (-0.1, -0.2, -0.3), 2.0), sample((3,), (-0.4,), -1.0), sample((5, 5), (-0.5, -0.6), 0.5))
    batch = batch_of(shared, block(prompt((1,)), sample((6, 8), (-0.7, -0.8), 3.0)))
    assert batch.input_ids.tolist() == [[IMAGE, 1, 2, 4, 5, 5, 1, 6]]
    assert batch.position_ids[0].tolist() == [[0, 1, 2, 3, 4, 3, 0, 1]]
    assert batch.spans == (BlockSpan(num_prompt=3, num_completion=(2, 0, 1)), BlockSpan(num_prompt=1, num_completion=(1,)))
    assert batch.attention_mask is None
    # the prompt's last token predicts the first token of each of its completions
    assert batch.logit_index.tolist() == [2, 3, 4, 2, 2, 5, 6, 7]
    assert batch.target_ids.tolist() == [4, 5, 6, 3, 5, 5, 6, 8]
    assert batch.loss_mask.tolist() == [1] * 8
    assert batch.sequence_index.tolist() == [0, 0, 0, 1, 2, 2, 3, 3]
    assert batch.rollout_logprobs.tolist() == pytest.approx([-0.1, -0.2, -0.3, -0.4, -0.5, -0.6, -0.7, -0.8])
    assert batch.advantages.tolist() == [2, 2, 2, -1, 0.5, 0.5, 3, 3]
    assert batch.proximal_logprobs is None


def test_padded_rows_by_hand() -> None:
    batch = batch_of(block(PICTURE, sample((4, 5))), block(prompt((1,)), sample((6,))), layout="padded")
    assert batch.input_ids.tolist() == [[IMAGE, 1, 2, 4], [1, PAD, PAD, PAD]]
    assert batch.attention_mask is not None and batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert batch.position_ids[2].tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]]
    assert batch.spans is None
    assert batch.logit_index.tolist() == [2, 3, 4]
    assert batch.target_ids.tolist() == [4, 5, 6]


def test_proximal_log_probabilities_come_along_where_samples_have_them() -> None:
    first, second = sample((4, 5), (-0.1, -0.2)), sample((6,), (-0.3,))
    both = [replace(first, proximal_logprobs=(-0.5, -0.6)), replace(second, proximal_logprobs=(-0.7,))]
    proximal = batch_of(block(PICTURE, *both)).to(torch.device("cpu")).proximal_logprobs
    assert proximal is not None and proximal.tolist() == pytest.approx([-0.5, -0.6, -0.7])
    proximal = batch_of(block(prompt((1,)), sample((6, 8))), block(PICTURE, *both)).proximal_logprobs  # a trace beside them
    assert proximal is not None and proximal.tolist() == pytest.approx([0, 0, -0.5, -0.6, -0.7])
    assert batch_of(block(prompt((1,)), sample((6, 8)))).proximal_logprobs is None
    with pytest.raises(AssertionError, match="either all RL samples"):
        batch_of(block(PICTURE, both[0], second))


def test_a_completion_may_hold_the_padding_id_and_is_still_learnt_from() -> None:
    batch = batch_of(block(PICTURE, sample((4, PAD, 4))), block(PICTURE, sample((PAD, PAD, 5, 5, 5))), layout="padded")
    assert batch.attention_mask is not None and batch.attention_mask.tolist() == [[1, 1, 1, 1, 1, 0, 0], [1] * 7]
    assert batch.loss_mask.tolist() == [1] * 8 and batch.target_ids.tolist() == [4, PAD, 4, PAD, PAD, 5, 5, 5]


@pytest.mark.parametrize("layout", ["shared_prompts", "padded"])
def test_an_image_placeholder_in_a_completion_is_replaced_and_has_no_loss(layout: Layout) -> None:
    batch = batch_of(block(PICTURE, sample((4, IMAGE, 5))), layout=layout)
    assert batch.input_ids.tolist() == [[IMAGE, 1, 2, 4, PAD]]
    assert batch.target_ids.tolist() == [4, PAD, 5]
    assert batch.loss_mask.tolist() == [1, 0, 1]


def test_completion_positions_go_on_from_the_largest_of_the_prompt() -> None:
    # two text tokens, an image of 1 x 1 x 2 tokens, one text token: M-RoPE counts the image's width once
    positions = torch.tensor([[0, 1, 2, 2, 4], [0, 1, 2, 2, 4], [0, 1, 2, 3, 4]])
    rendered = replace(PICTURE, ids=(1, 2, 7, 7, 3), position_ids=positions)
    batch = batch_of(block(rendered, sample((5, 6, 4)), sample((5, 4))))
    assert batch.position_ids[:, 0].tolist() == [[0, 1, 2, 2, 4, 5, 6, 5], [0, 1, 2, 2, 4, 5, 6, 5], [0, 1, 2, 3, 4, 5, 6, 5]]


def test_images_stand_in_the_order_of_the_blocks() -> None:
    first, text, second = prompt((7, 7), 2, fill=1.0), prompt((1,)), prompt((7,), 1, fill=2.0)
    batch = batch_of(*(block(rendered, sample((4,))) for rendered in (first, text, second)))
    assert batch.images["pixel_values"][:, 0].tolist() == [1.0] * 8 + [2.0] * 4
    assert batch.images["image_grid_thw"].shape == (3, 3)


def test_images_of_fewer_tiles_are_filled_up_with_zeros() -> None:
    few, many = (replace(PICTURE, images={"pixel_values": torch.ones(1, tiles, 2, 2)}) for tiles in (1, 3))
    pixels = batch_of(block(few, sample((4,))), block(many, sample((4,)))).images["pixel_values"]
    assert pixels.shape == (2, 3, 2, 2)
    assert pixels.sum((2, 3)).tolist() == [[4, 0, 0], [4, 4, 4]]


@pytest.mark.parametrize("layout", ["shared_prompts", "padded"])
def test_a_batch_without_images_shows_a_blank_one_after_all_samples(layout: Layout) -> None:
    batch = batch_of(block(prompt((1,)), sample((4, 5))), layout=layout)
    assert batch.images["pixel_values"][:, 0].tolist() == [-1.0] * 4
    assert batch.input_ids.flatten().tolist() == [1, 4, IMAGE, 8]
    assert batch.logit_index.tolist() == [0, 1] and batch.loss_mask.tolist() == [1, 1]


@pytest.mark.parametrize("layout", ["shared_prompts", "padded"])
def test_a_batch_without_samples_shows_a_blank_image_and_scores_nothing(layout: Layout) -> None:
    batch = batch_of(layout=layout)
    assert batch.input_ids.tolist() == [[IMAGE, 8]]
    assert batch.logit_index.dtype == batch.target_ids.dtype == torch.long
    assert len(batch.logit_index) == len(batch.target_ids) == len(batch.loss_mask) == len(batch.rollout_logprobs) == 0
