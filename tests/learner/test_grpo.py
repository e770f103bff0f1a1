"""Contract: each term of the losses has the value and the gradient that its formula in the paper says, sign included."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from learner.figures import quantiles
from learner.grpo import (
    MAX_LOG_RATIO,
    ClipRange,
    Sequences,
    TokenLosses,
    clipped_surrogate,
    clipped_weight_loss,
    group_advantages,
    kl_estimate,
    loss_weights,
    mixed_loss_weights,
    policy_loss,
    policy_ratio,
    rollout_weights,
    sft_loss,
)
from learner.schedule import learning_rate
from ovt_ray.core.config.stages import GrpoConfig, Optimizer, Ratio
from ovt_ray.rl.stage import policy_loss_of

RATIOS: tuple[Ratio, ...] = ("token", "sequence", "clipped_weight")


def grpo(**changes: Any) -> GrpoConfig:
    return GrpoConfig.model_validate({"num_steps": 1, "optimizer": Optimizer(learning_rate=1.0), "updates_per_step": 2, **changes})


def one_sequence(num_tokens: int) -> Sequences:
    return Sequences(index=torch.zeros(num_tokens, dtype=torch.long), mask=torch.ones(num_tokens))


def logs(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def test_advantages_of_a_group_by_hand() -> None:
    # mean 1/4, population deviation sqrt(3)/4
    assert group_advantages([[1, 0, 0, 0]], "grpo")[0] == pytest.approx([math.sqrt(3), *[-1 / math.sqrt(3)] * 3])
    assert group_advantages([[1, 0, 0, 0]], "dr_grpo")[0] == pytest.approx([0.75, -0.25, -0.25, -0.25])
    # the others of the first have mean 0, of the rest 1/3
    assert group_advantages([[1, 0, 0, 0]], "rloo")[0] == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])


def test_the_reinforce_pp_baseline_scales_by_the_deviation_of_all_groups_by_hand() -> None:
    # centred: 1/2, -1/2 and 2, -2; their deviation is sqrt((1/4 + 1/4 + 4 + 4) / 4)
    scale = math.sqrt(8.5 / 4)
    assert group_advantages([[1, 0], [4, 0]], "reinforce_pp") == [
        pytest.approx([0.5 / scale, -0.5 / scale]),
        pytest.approx([2 / scale, -2 / scale]),
    ]


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo", "reinforce_pp"])
def test_a_zero_variance_group_has_no_advantage(kind: Any) -> None:
    assert group_advantages([[0.3, 0.3, 0.3]], kind) == [[0, 0, 0]]
    assert group_advantages([[0.3, 0.3], [1, 0]], kind)[0] == [0, 0]
    assert group_advantages([], kind) == []


def test_loss_weights_by_hand() -> None:
    lengths, groups = [1, 3, 4, 0], ["a", "a", "b", "c"]
    assert loss_weights(lengths, groups, "token") == [1 / 8] * 4
    assert loss_weights(lengths, groups, "sequence") == pytest.approx([1 / 3, 1 / 9, 1 / 12, 0])  # the fourth has no token
    assert loss_weights(lengths, groups, "group") == pytest.approx([1 / 8, 1 / 8, 1 / 8, 0])
    assert loss_weights([1, 3, 2], ["a", "a", "b"], "group") == pytest.approx([1 / 8, 1 / 8, 1 / 4])


def test_traces_are_normalised_among_themselves_whatever_stands_beside_them_by_hand() -> None:
    lengths, groups, is_sft = [1, 3, 4, 12, 4], ["a", "a", "b", "a", "c"], [False, False, False, True, True]
    assert mixed_loss_weights(lengths, groups, is_sft, kind="token", sft_coef=0.5) == pytest.approx([1 / 8] * 3 + [0.5 / 16] * 2)
    # the trace of problem a is no member of group a
    assert mixed_loss_weights(lengths, groups, is_sft, kind="group", sft_coef=2.0) == pytest.approx([1 / 8, 1 / 8, 1 / 8, 2 / 16, 2 / 16])
    assert mixed_loss_weights(lengths, groups, [False] * 5, kind="sequence", sft_coef=9.0) == loss_weights(lengths, groups, "sequence")


def test_sums_over_a_sequence_leave_masked_tokens_out_by_hand() -> None:
    sequences = Sequences(index=torch.tensor([0, 0, 0, 1, 1]), mask=torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0]))
    values = torch.tensor([1.0, 99.0, 2.0, 4.0, 8.0])
    assert sequences.sums(values).tolist() == [3, 3, 3, 12, 12]
    assert sequences.means(values).tolist() == [1.5, 1.5, 1.5, 6, 6]
    assert sequences.sums_from(values).tolist() == [3, 2, 2, 12, 8]


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "low", "high"),
    [
        (1.0, 2.0, -2.0, -2.0, 0, 0),  # on-policy: the policy gradient itself
        (1.1, 2.0, -2.2, -2.2, 0, 0),
        (1.5, 2.0, -2.6, 0.0, 0, 1),  # cut at 1 + clip_high = 1.3
        (0.5, 2.0, -1.0, -1.0, 0, 0),  # a good token that became rarer is pulled back whatever its ratio
        (0.5, -2.0, 1.6, 0.0, 1, 0),  # cut at 1 - clip_low = 0.8
        (1.5, -2.0, 3.0, 3.0, 0, 0),  # a bad token that became likelier is pushed down whatever its ratio,
        (5.0, -2.0, 6.0, 0.0, 0, 1),  # until the dual clip at 3
        (0.9, -2.0, 1.8, 1.8, 0, 0),
    ],
)
def test_the_surrogate_and_its_gradient_by_hand(ratio: float, advantage: float, loss: float, gradient: float, low: int, high: int) -> None:
    policy = logs(ratio).requires_grad_()
    section = grpo(clip_low=0.2, clip_high=0.3, clip_dual=3.0)
    losses = on_tokens(policy, proximal=logs(1.0), rollout=logs(1.0), ref=None, advantages=torch.tensor([advantage]), section=section)
    losses.loss.sum().backward()
    assert policy.grad is not None
    found = (losses.loss.item(), policy.grad.item(), losses.clipped_low.item(), losses.clipped_high.item())
    assert found == pytest.approx((loss, gradient, low, high))


def test_without_a_dual_clip_a_bad_token_pushes_without_bound() -> None:
    args = torch.tensor([5.0]), torch.tensor([-2.0]), torch.ones(1)
    assert clipped_surrogate(*args, ClipRange(low=0.2, high=0.3, dual=None)).item() == 10
    assert clipped_surrogate(*args, ClipRange(low=0.2, high=0.3, dual=3.0)).item() == 6


def test_the_clipped_weight_loss_keeps_every_gradient_by_hand() -> None:
    policy = logs(0.6, 0.3, 0.1).requires_grad_()
    ratio, advantages = torch.tensor([1.5, 0.5, 1.5]), torch.tensor([2.0, 2.0, -1.0])
    loss = clipped_weight_loss(
        policy, ratio, advantages, weights=torch.tensor([1.0, 1.0, 0.5]), clip=ClipRange(low=0.2, high=0.3, dual=None)
    )
    loss.sum().backward()
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx([-1.3 * 2, -0.8 * 2, 1.3 * 0.5])
    assert loss.tolist() == pytest.approx([-2.6 * math.log(0.6), -1.6 * math.log(0.3), 0.65 * math.log(0.1)])


def test_the_sequence_ratio_is_the_geometric_mean_by_hand() -> None:
    policy, proximal = logs(0.8, 0.5, 0.9).requires_grad_(), logs(0.4, 0.25, 0.3)
    sequences = Sequences(index=torch.tensor([0, 0, 1]), mask=torch.ones(3))
    assert policy_ratio(policy, proximal, sequences, "token").tolist() == pytest.approx([2, 2, 3])
    ratio = policy_ratio(policy, logs(0.1, 0.25, 0.3), sequences, "sequence")
    assert ratio.tolist() == pytest.approx([4, 4, 3])  # sqrt(8 * 2)
    ratio.mul(torch.tensor([1.0, 1.0, 1.0])).sum().backward()
    assert policy.grad is not None and policy.grad.tolist() == pytest.approx([4, 4, 3])


def test_rollout_weights_by_hand() -> None:
    gap = logs(3.0, 0.5, 1.2, 1.5)
    sequences = Sequences(index=torch.tensor([0, 0, 1, 1]), mask=torch.ones(4))
    assert rollout_weights(gap, sequences, kind="none", cap=1.4).tolist() == [1, 1, 1, 1]
    assert rollout_weights(gap, sequences, kind="token", cap=1.4).tolist() == pytest.approx([1.4, 0.5, 1.2, 1.4])
    # products 1.5 and 1.8, geometric means 1.22 and 1.34
    assert rollout_weights(gap, sequences, kind="sequence", cap=1.6).tolist() == pytest.approx([1.5, 1.5, 0, 0])
    assert rollout_weights(gap, sequences, kind="geometric", cap=1.3).tolist() == [1, 1, 0, 0]
    assert rollout_weights(-gap, sequences, kind="geometric", cap=1.3).tolist() == [1, 1, 0, 0], "it is a mask to both sides"


def test_the_correction_multiplies_the_surrogate_and_not_the_kl() -> None:
    policy, rollout, ref = logs(0.4), logs(0.5), logs(0.2)
    losses = on_tokens(policy, proximal=None, rollout=rollout, ref=ref, advantages=torch.ones(1), section=grpo(kl_coef=0.1))
    assert losses.rollout_weights.tolist() == pytest.approx([0.8])
    assert losses.loss.item() == pytest.approx(-0.8 + 0.1 * (0.5 - 1 + math.log(2)))
    assert losses.log_ratio.exp().item() == pytest.approx(0.8)


def test_kl_estimates_by_hand_and_k3_never_negative() -> None:
    sampled, other = torch.tensor([-1.0, -1.0, -2.0]), torch.tensor([-1.0, -1.5, -1.0])
    assert kl_estimate("k1", sampled, other).tolist() == [0, 0.5, -1]
    assert kl_estimate("k2", sampled, other).tolist() == [0, 0.125, 0.5]
    expected = [0.0, math.exp(-0.5) - 1 + 0.5, math.e - 1 - 1]
    assert kl_estimate("k3", sampled, other).tolist() == pytest.approx(expected, abs=1e-6)
    assert (kl_estimate("k3", torch.randn(1000), torch.randn(1000)) >= 0).all()


def test_k1_and_k3_are_unbiased_estimates_of_the_divergence_and_k2_has_its_gradient() -> None:
    logits, q = torch.tensor([0.5, 0.1, -0.4], requires_grad=True), torch.tensor([0.2, 0.3, 0.5])
    log_p = logits.log_softmax(-1)
    exact = (log_p.exp() * (log_p - q.log())).sum()
    for kind in ("k1", "k3"):
        estimate = (log_p.exp() * kl_estimate(kind, log_p, q.log())).sum()
        assert estimate.item() == pytest.approx(exact.item(), abs=1e-6)
    sampled = (log_p.exp().detach() * kl_estimate("k2", log_p, q.log())).sum()
    assert torch.allclose(*(torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (exact, sampled)))


def test_the_kl_in_the_reward_is_taken_from_the_tokens_before_it_by_hand() -> None:
    # k1 of the three tokens is log 2, 0, log 4: their advantages lose half of log 8, log 4, log 4
    policy, ref = logs(0.4, 0.3, 0.8).requires_grad_(), logs(0.2, 0.3, 0.2)
    section = grpo(kl_coef=0.5, kl_estimator="k1", kl_in="reward")
    losses = on_tokens(policy, proximal=None, rollout=policy.detach(), ref=ref, advantages=torch.ones(3), section=section)
    losses.loss.sum().backward()
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx([-1 + 0.5 * math.log(8), -1 + 0.5 * math.log(4), -1 + 0.5 * math.log(4)])


@pytest.mark.parametrize("section", [{}, {"kl_in": "reward"}])
def test_the_kl_term_pulls_the_policy_towards_the_reference(section: dict[str, Any]) -> None:
    for start, target in [(-3.0, -1.0), (-1.0, -3.0)]:
        policy = torch.tensor([start], requires_grad=True)
        settings = grpo(kl_coef=1.0, kl_estimator="k1" if section else "k3", **section)
        ref, zero = torch.tensor([target]), torch.zeros(1)
        on_tokens(policy, proximal=None, rollout=policy.detach(), ref=ref, advantages=zero, section=settings).loss.sum().backward()
        assert policy.grad is not None and math.copysign(1, -policy.grad.item()) == math.copysign(1, target - start)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("correction", ["token", "sequence", "geometric"])
def test_far_away_log_probabilities_overflow_nothing(ratio: str, correction: str) -> None:
    for far, near in [(-200.0, -0.1), (-0.1, -200.0)]:
        policy, other = torch.tensor([far], requires_grad=True), torch.tensor([near])
        section = grpo(kl_coef=0.1, ratio=ratio, rollout_correction=correction)
        losses = on_tokens(policy, proximal=other, rollout=policy.detach(), ref=other, advantages=-torch.ones(1), section=section)
        losses.loss.sum().backward()
        assert torch.isfinite(losses.loss).all() and policy.grad is not None and torch.isfinite(policy.grad).all()
        assert losses.kl_ref.item() <= math.exp(MAX_LOG_RATIO)


def on_tokens(
    policy: Tensor, *, proximal: Tensor | None, rollout: Tensor, ref: Tensor | None, advantages: Tensor, section: GrpoConfig
) -> TokenLosses:
    """The loss of one sequence."""
    return policy_loss(
        policy,
        rollout_logprobs=rollout,
        proximal_logprobs=proximal,
        ref_logprobs=ref,
        advantages=advantages,
        sequences=one_sequence(len(policy)),
        variant=policy_loss_of(section),
    )


def plain_loss(section: GrpoConfig, rows: dict[str, np.ndarray], bounds: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """The loss of each token and its derivative by the token's log-probability, one sequence and one token at a time, in float64."""
    losses, slopes = [], []
    for low, high in bounds:
        policy, proximal, rollout, ref = (rows[name][low:high] for name in ("policy", "proximal", "rollout", "ref"))
        gaps = np.exp(proximal) / np.exp(rollout)
        seen = proximal - ref
        kl = {"k1": seen, "k2": 0.5 * seen**2, "k3": np.exp(ref) / np.exp(proximal) - 1 + seen}[section.kl_estimator]
        for t in range(high - low):
            own = np.exp(policy[t]) / np.exp(proximal[t])
            ratio = np.prod(np.exp(policy - proximal)) ** (1 / len(policy)) if section.ratio == "sequence" else own
            advantage = rows["advantages"][low + t] - (section.kl_coef * sum(kl[t:]) if section.kl_in == "reward" else 0)
            weight = {
                "none": 1.0,
                "token": min(gaps[t], section.rollout_cap),
                "sequence": np.prod(gaps) if np.prod(gaps) <= section.rollout_cap else 0.0,
                "geometric": float(abs(np.mean(np.log(gaps))) <= np.log(section.rollout_cap)),
            }[section.rollout_correction]
            bounded = min(max(ratio, 1 - section.clip_low), 1 + section.clip_high)
            if section.ratio == "clipped_weight":
                loss, slope = -bounded * advantage * policy[t] * weight, -bounded * advantage * weight
            else:
                held = (ratio < 1 - section.clip_low and advantage < 0) or (ratio > 1 + section.clip_high and advantage > 0)
                effective = bounded if held else ratio
                if section.clip_dual is not None and advantage < 0 and ratio > section.clip_dual:
                    held, effective = True, section.clip_dual
                loss, slope = -effective * advantage * weight, 0.0 if held else -ratio * advantage * weight
            if section.kl_in == "loss":
                away = policy[t] - ref[t]
                loss += section.kl_coef * {"k1": away, "k2": away**2 / 2, "k3": np.exp(-away) + away - 1}[section.kl_estimator]
                slope += section.kl_coef * {"k1": 1, "k2": away, "k3": 1 - np.exp(-away)}[section.kl_estimator]
            losses.append(loss)
            slopes.append(slope)
    return np.array(losses), np.array(slopes)


KLS = [{}, *({"kl_coef": 0.05, "kl_in": place, "kl_estimator": k} for place, k in [("loss", "k2"), ("loss", "k3"), ("reward", "k1")])]


@pytest.mark.parametrize("ratio", [{"ratio": kind} for kind in RATIOS] + [{"ratio": kind, "clip_dual": 1.5} for kind in RATIOS[:2]])
@pytest.mark.parametrize("kl", KLS)
@pytest.mark.parametrize("correction", ["none", "token", "sequence", "geometric"])
@pytest.mark.parametrize("first_update", [False, True])
def test_every_variant_has_loss_and_gradient_of_an_independent_implementation_in_float64(
    ratio: dict[str, Any], kl: dict[str, Any], correction: str, first_update: bool
) -> None:
    generator = np.random.default_rng(0)
    rows = {name: np.log(generator.uniform(0.2, 0.9, 300)) for name in ("policy", "proximal", "rollout", "ref")}
    if first_update:
        rows["proximal"] = rows["policy"]
    rows["advantages"] = generator.normal(size=300)
    cuts = [0, *sorted(generator.choice(np.arange(1, 300), 60, replace=False).tolist()), 300]
    section = grpo(clip_low=0.2, clip_high=0.28, rollout_correction=correction, **ratio, **kl)
    expected_loss, expected_slope = plain_loss(section, rows, list(zip(cuts, cuts[1:], strict=False)))
    policy = torch.tensor(rows["policy"], requires_grad=True)
    lengths = torch.tensor(np.diff(cuts))
    losses = policy_loss(
        policy,
        rollout_logprobs=torch.tensor(rows["rollout"]),
        proximal_logprobs=None if first_update else torch.tensor(rows["proximal"]),
        ref_logprobs=torch.tensor(rows["ref"]) if section.kl_coef else None,
        advantages=torch.tensor(rows["advantages"]),
        sequences=Sequences(index=torch.arange(len(lengths)).repeat_interleave(lengths), mask=torch.ones(300)),
        variant=policy_loss_of(section),
    )
    losses.loss.sum().backward()
    np.testing.assert_allclose(losses.loss.detach(), expected_loss, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(policy.grad, expected_slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("normalisation", ["token", "sequence", "group"])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("correction", ["token", "sequence", "geometric"])
def test_no_split_into_ranks_and_micro_batches_changes_the_gradient(normalisation: Any, ratio: str, correction: str) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths, groups = [40, 3, 17, 1, 25, 8], ["a", "a", "b", "b", "c", "c"]
    inputs = [torch.randn(length, 32, generator=generator) for length in lengths]
    noise = [[0.2 * torch.randn(length, generator=generator) - 1 for _ in range(3)] for length in lengths]
    section = grpo(normalisation=normalisation, ratio=ratio, rollout_correction=correction, kl_coef=0.1, kl_estimator="k1", kl_in="reward")
    weights = loss_weights(lengths, groups, normalisation)

    def gradient(split: list[list[int]]) -> Tensor:
        theta = torch.linspace(-0.05, 0.05, 32).requires_grad_()
        for members in split:
            rollout, proximal, ref = (torch.cat([noise[index][kind] for index in members]) for kind in range(3))
            sizes = torch.tensor([lengths[index] for index in members])
            index = torch.arange(len(members)).repeat_interleave(sizes)
            losses = policy_loss(
                torch.cat([inputs[member] @ theta - 1 for member in members]),
                rollout_logprobs=rollout,
                proximal_logprobs=proximal,
                ref_logprobs=ref,
                advantages=torch.tensor([(-1.0) ** member for member in members])[index],
                sequences=Sequences(index=index, mask=torch.ones(len(index))),
                variant=policy_loss_of(section),
            )
            (losses.loss * torch.tensor([weights[member] for member in members])[index]).sum().backward()
        assert theta.grad is not None
        return theta.grad

    whole = gradient([[0, 1, 2, 3, 4, 5]])
    assert whole.norm() > 1e-3
    for split in ([[0], [1], [2], [3], [4], [5]], [[5, 0], [3, 4, 1], [2]]):
        assert (gradient(split) - whole).norm() <= 1e-6 * whole.norm()


def test_a_masked_token_changes_nothing_for_the_others() -> None:
    def losses(middle: float) -> list[float]:
        policy = torch.tensor([-1.0, middle, -2.0])
        section = grpo(ratio="sequence", rollout_correction="sequence", kl_coef=0.1, kl_estimator="k1", kl_in="reward")
        found = policy_loss(
            policy,
            rollout_logprobs=torch.tensor([-1.1, -1.0, -2.1]),
            proximal_logprobs=torch.tensor([-1.2, -1.0, -1.9]),
            ref_logprobs=torch.tensor([-1.5, 2 * middle, -2.0]),
            advantages=torch.ones(3),
            sequences=Sequences(index=torch.zeros(3, dtype=torch.long), mask=torch.tensor([1.0, 0.0, 1.0])),
            variant=policy_loss_of(section),
        )
        return found.loss[[0, 2]].tolist()

    assert losses(-1.0) == losses(-40.0)


def test_quantiles_are_values_of_the_nearest_rank() -> None:
    assert quantiles(torch.arange(1.0, 101.0).flip(0)).tolist() == [1, 50, 99]
    assert quantiles(torch.tensor([3.0])).tolist() == [3, 3, 3]


def test_sft_loss_is_the_weighted_negative_log_likelihood() -> None:
    assert sft_loss(torch.tensor([-0.5, -2.0]), torch.tensor([1.0, 0.5])).loss.tolist() == [0.5, 1.0]


def test_the_learning_rate_warms_up_peaks_and_decays_by_hand() -> None:
    section = Optimizer(learning_rate=1.0, warmup=0.4, final_lr=0.2)
    # 4 of 10 updates warm up: 1/5 .. 4/5, the peak follows, then half a cosine over the 5 updates left
    expected = [0.2, 0.4, 0.6, 0.8, 1.0, *[0.2 + 0.8 * (1 + math.cos(math.pi * k / 5)) / 2 for k in (1, 2, 3, 4, 5)]]
    assert [learning_rate(section, update, 10) for update in range(10)] == pytest.approx(expected)
    assert learning_rate(Optimizer(learning_rate=1.0), 0, 1) == 1.0
