"""The order of a stream follows from seed and position; a mixture keeps its ratio; nothing is repeated or skipped."""

from collections import Counter
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from ovt_ray.data.stream import Interleaving, ItemStream, MixturePart

SHARES = st.lists(st.decimals("0.01", "9", places=2).map(float), min_size=1, max_size=6)
SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=4)


def stream_of(sizes: list[int], seed: int, shares: list[float] | None = None) -> ItemStream[tuple[int, int]]:
    """Parts of so many items; an item is its part's number and its own."""
    parts = [
        MixturePart(name=str(number), items=[(number, item) for item in range(size)], share=shares[number] if shares else 1.0)
        for number, size in enumerate(sizes)
    ]
    return ItemStream(parts, seed)


@settings(deadline=None)
@given(SHARES, st.integers(0, 400))
def test_every_prefix_of_a_mixture_has_each_share_to_within_one_item(shares: list[float], num: int) -> None:
    interleaving, exact = Interleaving(shares), [Fraction(str(share)) for share in shares]
    counts = Counter[int]()
    for position in range(num):
        part, place = interleaving.turn(position)
        assert place == counts[part], "its items are asked for one after the other"
        counts[part] += 1
        for number, share in enumerate(exact):
            assert abs(counts[number] - share / sum(exact) * (position + 1)) < 1
    assert interleaving.counts(num) == [counts[number] for number in range(len(shares))]


def test_the_turns_of_a_mixture_by_hand() -> None:
    turns = [Interleaving([0.5, 0.3, 0.2]).turn(position)[0] for position in range(10)]
    assert turns == [0, 1, 0, 2, 0, 1, 0, 1, 0, 2]
    assert [Interleaving([3, 1]).turn(position) for position in (0, 3, 4, 4_000_003)] == [(0, 0), (1, 0), (0, 3), (1, 1_000_000)]


@settings(deadline=None)
@given(SIZES, st.integers(0, 2**40), st.integers(0, 60), st.integers(0, 30))
def test_an_item_depends_on_seed_and_position_alone(sizes: list[int], seed: int, position: int, count: int) -> None:
    whole = stream_of(sizes, seed).take(0, position + count)
    assert stream_of(sizes, seed).take(position, count) == whole[position:], "without what was taken before"


@settings(deadline=None)
@given(SIZES, st.integers(0, 2**40), st.integers(1, 3))
def test_a_part_goes_through_all_its_items_before_it_repeats_one(sizes: list[int], seed: int, num_epochs: int) -> None:
    stream = stream_of(sizes, seed, shares=[float(size) for size in sizes])  # so that their epochs end together
    for epoch in range(num_epochs):
        taken = stream.take(epoch * len(stream), len(stream))
        assert sorted(taken) == [(number, item) for number, size in enumerate(sizes) for item in range(size)]


@settings(deadline=None)
@given(SIZES, st.integers(0, 2**40), st.lists(st.integers(0, 9), max_size=8), st.integers(1, 4))
def test_ranks_and_restarts_that_share_positions_take_what_one_taker_would(
    sizes: list[int], seed: int, counts: list[int], num_ranks: int
) -> None:
    taken, position = [], 0
    for count in counts:  # a restart between any two: nothing but the position is carried over
        bounds = [position + count * rank // num_ranks for rank in range(num_ranks + 1)]
        shards = [stream_of(sizes, seed).take(low, high - low) for low, high in zip(bounds, bounds[1:], strict=False)]
        taken += [item for shard in shards for item in shard]
        position += count
    assert taken == stream_of(sizes, seed).take(0, sum(counts))


def test_epochs_and_seeds_have_other_orders_and_a_part_s_order_ignores_its_neighbours() -> None:
    stream = stream_of([30], 0)
    assert len({tuple(order) for order in (stream.take(0, 30), stream.take(30, 30), stream_of([30], 1).take(0, 30))}) == 3
    first, second = stream_of([30, 5], 0).take(0, 60), stream_of([30, 9], 0).take(0, 60)
    assert [item for item in first if item[0] == 0] == [item for item in second if item[0] == 0]
