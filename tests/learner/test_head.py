"""Contract: log-probabilities, entropies and gradients are those of a softmax over all logits, however many are held at a time."""

import pytest
import torch
from torch import Tensor, nn

from learner.head import LogprobHead, rows_of

V, H, N = 11, 4, 7
FORBIDDEN = frozenset({2, 9})
TEMPERATURE = 0.7


def inputs() -> tuple[Tensor, nn.Parameter, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, H, generator=generator, requires_grad=True)
    weight = nn.Parameter(torch.randn(V, H, generator=generator))
    return hidden, weight, torch.tensor([0, 1, 3, 10, 3, 8, 5])


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """In float64, over the ids that may be chosen only."""
    keep = [id for id in range(V) if id not in FORBIDDEN]
    logprobs = torch.log_softmax((hidden.double() @ weight.double().T)[:, keep] / TEMPERATURE, -1)
    return logprobs[range(len(targets)), [keep.index(id) for id in targets.tolist()]], -(logprobs.exp() * logprobs).sum(-1)


@pytest.mark.parametrize("chunk_logits", [1, 3 * V, 10**6])
def test_chunks_of_any_size_give_the_softmax_over_all_logits_and_its_gradient(chunk_logits: int) -> None:
    hidden, weight, targets = inputs()
    logprobs, entropies = LogprobHead(weight, FORBIDDEN, TEMPERATURE, chunk_logits)(hidden, targets)
    expected, expected_entropies = plain(hidden, weight, targets)
    torch.testing.assert_close(logprobs.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(entropies.double(), expected_entropies.detach(), rtol=1e-6, atol=1e-6)
    assert not entropies.requires_grad
    towards = torch.linspace(-1, 2, N)
    found = torch.autograd.grad((logprobs * towards).sum(), (hidden, weight))
    for one, other in zip(found, torch.autograd.grad((expected * towards).sum(), (hidden, weight)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_frozen_weight_gets_no_gradient_and_hidden_states_still_do() -> None:
    hidden, weight, targets = inputs()
    head = LogprobHead(weight.requires_grad_(False), FORBIDDEN, TEMPERATURE)
    head(hidden, targets)[0].sum().backward()
    assert weight.grad is None and hidden.grad is not None and hidden.grad.abs().sum() > 0


def test_gradients_of_a_row_that_predicts_several_tokens_add_up_to_the_same_bits_every_time() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, towards = torch.randn(4000, 128, generator=generator), torch.randn(3000, 128, generator=generator)
    places = torch.randint(0, 200, (3000,), generator=generator)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = [torch.autograd.grad(rows_of(row := hidden.clone().requires_grad_(), places), row, towards)[0] for _ in range(20)]
    finally:
        torch.set_num_threads(num_threads)
    assert all(torch.equal(one, found[0]) for one in found)
    torch.testing.assert_close(found[0], torch.zeros(4000, 128).index_add(0, places, towards))


def test_no_tokens_give_a_gradient_of_zero() -> None:
    hidden, weight, targets = inputs()
    logprobs, _ = LogprobHead(weight, FORBIDDEN, TEMPERATURE)(hidden[:0], targets[:0])
    logprobs.sum().backward()
    assert hidden.grad is not None and not hidden.grad.any() and weight.grad is not None and not weight.grad.any()


def test_bfloat16_hidden_states_give_float32_log_probabilities_and_bfloat16_gradients() -> None:
    hidden, weight, targets = inputs()
    low, low_weight = hidden.detach().bfloat16().requires_grad_(), nn.Parameter(weight.detach().bfloat16())
    logprobs, _ = LogprobHead(low_weight, FORBIDDEN, TEMPERATURE, chunk_logits=2 * V)(low, targets)
    expected, _ = plain(low, low_weight, targets)
    torch.testing.assert_close(logprobs.double(), expected, rtol=0, atol=0.05)
    gradients = torch.autograd.grad(logprobs.sum(), (low, low_weight))
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.bfloat16]
    torch.testing.assert_close(gradients[1].double(), torch.autograd.grad(expected.sum(), low_weight)[0].double(), rtol=0.02, atol=0.05)
