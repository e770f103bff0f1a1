"""Contract: each term of the losses has the value and the gradient that its formula in the paper says, sign included."""

import math

import numpy as np
import pytest
import torch

from learner.grpo import MAX_LOG_RATIO, clipped_surrogate, group_advantages, grpo_loss, k3_kl, sft_loss
from learner.schedule import learning_rate
from ovt_ray.config import Optimizer


def test_advantages_of_a_group_by_hand() -> None:
    assert group_advantages([1, 0, 0, 0], normalise=False) == pytest.approx([0.75, -0.25, -0.25, -0.25])
    # mean 1/4, population deviation sqrt(3)/4
    assert group_advantages([1, 0, 0, 0], normalise=True) == pytest.approx([math.sqrt(3), *[-1 / math.sqrt(3)] * 3])


def test_a_flat_group_has_no_advantage() -> None:
    assert group_advantages([0.3, 0.3, 0.3], normalise=True) == [0, 0, 0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, 0),  # on-policy: the policy gradient itself
        (1.1, 2.0, -2.2, -2.2, 0),
        (1.5, 2.0, -2.6, 0.0, 1),  # cut at 1 + clip_high = 1.3
        (0.5, 2.0, -1.0, -1.0, 0),  # a good token that became rarer is pulled back whatever its ratio
        (0.5, -2.0, 1.6, 0.0, 1),  # cut at 1 - clip_low = 0.8
        (1.5, -2.0, 3.0, 3.0, 0),  # a bad token that became likelier is pushed down whatever its ratio
        (0.9, -2.0, 1.8, 1.8, 0),
    ],
)
def test_the_surrogate_and_its_gradient_by_hand(ratio: float, advantage: float, loss: float, gradient: float, clipped: int) -> None:
    policy = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    value, cut = clipped_surrogate(policy, torch.zeros(1), torch.tensor([advantage]), clip_low=0.2, clip_high=0.3)
    value.sum().backward()
    assert policy.grad is not None
    assert (value.item(), policy.grad.item(), cut.item()) == pytest.approx((loss, gradient, clipped))


def test_k3_by_hand_and_never_negative() -> None:
    sampled, other = torch.tensor([-1.0, -1.0, -2.0]), torch.tensor([-1.0, -1.5, -1.0])
    expected = [0.0, math.exp(-0.5) - 1 + 0.5, math.e - 1 - 1]
    assert k3_kl(sampled, other).tolist() == pytest.approx(expected, abs=1e-6)
    assert (k3_kl(torch.randn(1000), torch.randn(1000)) >= 0).all()


def test_k3_is_an_unbiased_estimate_of_the_divergence_it_names() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    exact = (p * (p / q).log()).sum()
    assert (p * k3_kl(p.log(), q.log())).sum().item() == pytest.approx(exact.item(), abs=1e-6)


def test_far_away_log_probabilities_overflow_nothing() -> None:
    far = torch.tensor([-200.0], requires_grad=True)
    near = torch.tensor([-0.1])
    losses = grpo_loss(far, near, near, torch.tensor([-1.0]), clip_low=0.2, clip_high=0.2, kl_coef=0.1)
    losses.loss.sum().backward()
    assert torch.isfinite(losses.loss).all() and far.grad is not None and torch.isfinite(far.grad).all()
    assert losses.kl_ref.item() <= math.exp(MAX_LOG_RATIO)


def test_the_whole_loss_equals_an_independent_implementation_in_float64() -> None:
    generator = np.random.default_rng(0)
    policy, rollout, ref = (np.log(generator.uniform(0.05, 1, 500)) for _ in range(3))
    advantages = generator.normal(size=500)
    tensors = [torch.tensor(values) for values in (policy, rollout, ref, advantages)]
    losses = grpo_loss(*tensors, clip_low=0.2, clip_high=0.28, kl_coef=0.05)
    ratio = np.exp(policy) / np.exp(rollout)
    bounded = np.where(ratio < 0.8, 0.8, np.where(ratio > 1.28, 1.28, ratio))
    surrogate = np.where(ratio * advantages < bounded * advantages, ratio * advantages, bounded * advantages)
    kl_ref = np.exp(ref) / np.exp(policy) - np.log(np.exp(ref) / np.exp(policy)) - 1
    kl_rollout = ratio - np.log(ratio) - 1
    np.testing.assert_allclose(losses.loss, -surrogate + 0.05 * kl_ref, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(losses.kl_rollout, kl_rollout, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(losses.clipped, (surrogate != ratio * advantages).astype(float))


def test_the_kl_term_pulls_the_policy_towards_the_reference() -> None:
    for start, target in [(-3.0, -1.0), (-1.0, -3.0)]:
        policy = torch.tensor([start], requires_grad=True)
        rollout, ref, zero = policy.detach(), torch.tensor([target]), torch.zeros(1)
        grpo_loss(policy, rollout, ref, zero, clip_low=0.2, clip_high=0.2, kl_coef=1.0).loss.sum().backward()
        assert policy.grad is not None and math.copysign(1, -policy.grad.item()) == math.copysign(1, target - start)


def test_sft_loss_is_the_weighted_negative_log_likelihood() -> None:
    assert sft_loss(torch.tensor([-0.5, -2.0]), torch.tensor([1.0, 0.5])).loss.tolist() == [0.5, 1.0]


def test_the_learning_rate_warms_up_peaks_and_decays_by_hand() -> None:
    section = Optimizer(learning_rate=1.0, warmup=0.4, final_lr=0.2)
    # 4 of 10 updates warm up: 1/5 .. 4/5, the peak follows, then half a cosine over the 5 updates left
    expected = [0.2, 0.4, 0.6, 0.8, 1.0, *[0.2 + 0.8 * (1 + math.cos(math.pi * k / 5)) / 2 for k in (1, 2, 3, 4, 5)]]
    assert [learning_rate(section, update, 10) for update in range(10)] == pytest.approx(expected)
    assert learning_rate(Optimizer(learning_rate=1.0), 0, 1) == 1.0
