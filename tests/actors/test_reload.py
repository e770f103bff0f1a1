"""Parts of a matrix are packed from where they lie, if they lie below each other."""

import pytest
import torch

from actors.reload import _joined

pytestmark = pytest.mark.heavy


def test_parts_that_follow_each_other_in_memory_are_not_copied() -> None:
    memory = torch.arange(24.0)
    upper, lower = memory[:8].view(2, 4), memory[8:20].view(3, 4)
    joined = _joined([upper, lower])
    assert joined.data_ptr() == memory.data_ptr() and torch.equal(joined, memory[:20].view(5, 4))


def test_parts_that_lie_elsewhere_or_in_another_order_are_copied_into_the_right_one() -> None:
    memory = torch.arange(24.0)
    upper, lower = memory[:8].view(2, 4), memory[8:20].view(3, 4)
    assert _joined([lower, upper]).tolist() == [*lower.tolist(), *upper.tolist()]
    assert _joined([upper, lower.clone()]).tolist() == memory[:20].view(5, 4).tolist()
    assert _joined([upper, memory[12:24].view(3, 4)]).tolist() == [*upper.tolist(), *memory[12:24].view(3, 4).tolist()]
