"""Contract: every sample is in one pass of one rank, passes keep to their budget, and completions of one prompt share it."""

from hypothesis import given
from hypothesis import strategies as st

from learner.packing import Block, micro_batches, rank_shares
from ovt_ray.core.types import AnswerKind, Problem, TrainSample


class Text:
    """A prompt with nothing to it but its identity."""


def block(index: int, prompt: Text, num_prompt: int, num_completion: int) -> Block[Text]:
    problem = Problem(id="p", question="?", images=(), answer="a", kind=AnswerKind.TEXT)
    sample = TrainSample(problem=problem, completion_ids=(0,) * num_completion)
    return Block(prompt=prompt, num_prompt=num_prompt, indices=(index,), samples=(sample,))


def indices(passes: list[list[Block[Text]]]) -> list[list[tuple[int, ...]]]:
    return [[one.indices for one in blocks] for blocks in passes]


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


def test_a_block_is_fed_all_but_the_last_token_of_each_completion() -> None:
    one = block(0, Text(), num_prompt=5, num_completion=3)
    assert (one.num_fed, one.num_tokens) == ((2,), 7)


def test_samples_of_one_prompt_share_it_by_hand() -> None:
    first, second = Text(), Text()
    samples = [block(0, first, 5, 4), block(1, second, 2, 3), block(2, first, 5, 2), block(3, first, 5, 8)]
    # 5 + 3 + 1 = 9 tokens; with the 7 of the last 16, which is too many; the second prompt's 4 go beside the last
    assert indices(micro_batches(samples, "shared_prompts", budget=16)) == [[(0, 2, 3)], [(1,)]]
    assert indices(micro_batches(samples, "shared_prompts", budget=15)) == [[(3,)], [(0, 2), (1,)]]
    assert indices(micro_batches(samples, "packed", budget=16)) == [[(3,), (1,)], [(0,), (2,)]]
    assert indices(micro_batches(samples, "padded", budget=16)) == [[(3,)], [(0,), (2,)], [(1,)]]


PROMPTS = [(Text(), length) for length in (1, 7, 30)]
SAMPLES = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40)), max_size=40)


@given(SAMPLES, st.integers(16, 200), st.sampled_from(["shared_prompts", "packed", "padded"]))
def test_passes_hold_every_sample_once_within_the_budget(drawn: list[tuple[int, int]], budget: int, layout: str) -> None:
    samples = [block(index, *PROMPTS[prompt], length) for index, (prompt, length) in enumerate(drawn)]
    passes = micro_batches(samples, layout, budget)  # type: ignore[arg-type]
    assert sorted(index for blocks in passes for one in blocks for index in one.indices) == list(range(len(samples)))
    for blocks in passes:
        num_tokens = [one.num_tokens for one in blocks]
        alone = len(blocks) == 1 and len(blocks[0].samples) == 1
        assert alone or (max(num_tokens) * len(blocks) if layout == "padded" else sum(num_tokens)) <= budget
        for one in blocks:
            assert all(
                samples[index].prompt is one.prompt and samples[index].samples == (sample,)
                for index, sample in zip(one.indices, one.samples, strict=True)
            )


@given(SAMPLES)
def test_without_a_limit_each_prompt_is_fed_once(drawn: list[tuple[int, int]]) -> None:
    samples = [block(index, *PROMPTS[prompt], length) for index, (prompt, length) in enumerate(drawn)]
    blocks = [one for blocks in micro_batches(samples, "shared_prompts", budget=10**6) for one in blocks]
    assert len(blocks) == len({prompt for prompt, _ in drawn})
