"""Which items a step sees follows from seed and step alone."""

from hypothesis import given
from hypothesis import strategies as st

from ovt_ray.core.seeds import stable_seed
from ovt_ray.data.order import batch_at, batches_of_epochs, shuffled


def test_an_epoch_goes_through_every_item_once() -> None:
    seen = [item for step in range(3) for item in batch_at(range(12), step, 4, seed=5)]
    assert sorted(seen) == list(range(12))


def test_the_next_epoch_has_another_order() -> None:
    assert [batch_at(range(100), step, 100, seed=5) for step in (0, 1)][0] != batch_at(range(100), 1, 100, seed=5)


def test_fewer_items_than_a_batch_are_one_batch() -> None:
    assert sorted(batch_at("abc", 7, 32, seed=0)) == ["a", "b", "c"]


@given(st.integers(1, 50), st.integers(0, 200), st.integers(1, 20), st.integers(0, 2**40))
def test_a_batch_never_repeats_an_item_and_is_the_same_again(num: int, step: int, size: int, seed: int) -> None:
    batch = batch_at(range(num), step, size, seed)
    assert len(set(batch)) == len(batch) == min(num, size)
    assert batch == batch_at(range(num), step, size, seed)


@given(st.integers(1, 50), st.integers(0, 5), st.integers(1, 20), st.integers(0, 2**40))
def test_without_dropping_the_last_batch_each_epoch_holds_every_item_once(num: int, epoch: int, size: int, seed: int) -> None:
    num_batches = batches_of_epochs(1, num, size)
    batches = [batch_at(range(num), epoch * num_batches + place, size, seed, drop_last=False) for place in range(num_batches)]
    assert sorted(item for batch in batches for item in batch) == list(range(num))
    assert all(len(batch) == size for batch in batches[:-1])


def test_the_batches_of_epochs_by_hand() -> None:
    assert [batches_of_epochs(*counts) for counts in [(1, 10, 4), (2, 10, 4), (0.5, 10, 4), (1, 8, 4), (1, 3, 32)]] == [3, 6, 2, 2, 1]
    assert batches_of_epochs(1.1, 100, 10) == 11, "though 1.1 * 10 is 11.000000000000002"


def test_a_shuffle_depends_on_its_seed_and_keeps_every_item() -> None:
    assert shuffled(range(50), 1) == shuffled(range(50), 1) != shuffled(range(50), 2)
    assert sorted(shuffled(range(50), 1)) == list(range(50))


def test_a_stable_seed_depends_on_every_part() -> None:
    assert len({stable_seed(0, "a"), stable_seed(1, "a"), stable_seed(0, "b"), stable_seed("0/a", "")}) == 4
    assert stable_seed(0, "iter1/grpo") == 0xD16E4AA3375ED4
