"""The configuration of what a stage of training does: distillation, SFT, GRPO and their optimizer.

Light as `ovt_ray.core.config.run`, which has the rest.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ovt_ray.core.config.section import Fraction, ModelPart, Section
from ovt_ray.core.config.traces import EndpointConfig, SelectionRule, TraceFilters

Advantage = Literal["grpo", "dr_grpo", "rloo", "reinforce_pp"]
Ratio = Literal["token", "sequence", "clipped_weight"]
KlEstimator = Literal["k1", "k2", "k3"]
RolloutCorrection = Literal["none", "token", "sequence", "geometric"]
Normalisation = Literal["token", "sequence", "group"]
Beta = Annotated[float, Field(ge=0, lt=1)]
Tier = Literal["easy", "medium", "hard", "unsolved"]
"""How often a problem was answered correctly when the run last asked: 4 in 5 times or more, 2 in 5 or more, less, never."""


class Optimizer(Section):
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = Field(ge=0)
    """Its peak, after warm-up."""
    warmup: Fraction = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    final_lr: Fraction = 0.0
    """Learning rate of the last step, as a share of `learning_rate`."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled (AdamW)."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """The norm of the whole gradient is clipped to this."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's decay rates of first and second moments."""
    freeze: tuple[ModelPart, ...] = ()
    """Parts that are not trained; the output head belongs to the language model."""


class ProblemChoice(Section):
    """Which of the problems a stage takes."""

    sources: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = Field(default=None, min_length=1)
    """Shares of a mixture by source, relative to their sum; of the embedded world's, a source is a kind of question. None takes all
    problems alike."""
    tiers: tuple[Tier, ...] | None = Field(default=None, min_length=1)
    """Only problems whose pass rate the run has measured and that are in one of these tiers; of the embedded world's, which are drawn when
    they are asked for, that leaves those of earlier stages. None takes all, measured or not."""

    @model_validator(mode="after")
    def _chooses(self) -> "ProblemChoice":
        if self.sources is None and self.tiers is None:
            raise ValueError("problems: neither sources nor tiers is given, so nothing is chosen: give one of them, or leave problems out")
        return self


class DistilConfig(Section):
    """One distillation stage: who writes traces, and which are kept."""

    source: Literal["caption", "dataset", "policy", "endpoint"]
    """`caption`: a captioner describes each image and a text-only reasoner answers; `dataset`: the worked solutions that came
    with the data; `policy`: the last RL model answers; `endpoint`: a model behind an OpenAI-compatible server answers."""
    num_problems: int = Field(ge=1)
    """Problems that traces are asked for."""
    num_chains: int = Field(default=4, ge=1)
    """k, traces asked for per problem."""
    temperature: float = Field(default=1.0, ge=0)
    """Of the policy's and the endpoint's chains."""
    problems: ProblemChoice | None = None
    """Which problems those are; None takes from all."""
    hard: bool = False
    """Draw the embedded world's harder mixture of questions."""
    select: SelectionRule = "shortest"
    """Which correct chains that pass the filters are taken first: the shortest in words (arXiv 2503.17352, section 3), the longest, those
    below the longest (the paper's published script), any (`random`, by the run's seed), or `all` of them."""
    traces_per_problem: int = Field(default=1, ge=1)
    """Traces taken of one problem."""
    per_source: int | None = Field(default=None, ge=1)
    """Traces taken of problems with one `source`; None takes all."""
    filters: TraceFilters = TraceFilters()
    """What a chain must keep to be taken."""
    endpoint: EndpointConfig | None = None
    """The server that `source: endpoint` asks."""

    @property
    def num_asked(self) -> int:
        """Chains asked for each problem; a data set has one."""
        return 1 if self.source == "dataset" else self.num_chains

    @model_validator(mode="after")
    def _endpoint_fits_source(self) -> "DistilConfig":
        if (self.endpoint is None) == (self.source == "endpoint"):
            need = "needs an endpoint: add endpoint={url: ..., model: ...}" if self.endpoint is None else "asks no endpoint: leave it out"
            raise ValueError(f"source {self.source!r} {need}")
        if self.select == "all" and "traces_per_problem" in self.model_fields_set:
            raise ValueError("select 'all' takes every chain that passes: leave traces_per_problem out")
        return self

    @model_validator(mode="after")
    def _options_fit_source(self) -> "DistilConfig":
        unused = {"dataset": {"num_chains", "temperature"}, "caption": {"temperature"}}.get(self.source, set())
        if given := sorted(unused & self.model_fields_set):
            raise ValueError(f"source {self.source!r} takes no {given[0]}: leave it out")
        if self.hard and self.problems:
            raise ValueError("hard and problems both say which problems are taken: leave one of them out")
        return self


class SftConfig(Section):
    """One supervised fine-tuning stage, from the base model: cross entropy on the response's tokens, none on the prompt's."""

    num_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps, each on a full batch; the traces are gone through as often as that takes. Either this or `num_epochs` is given."""
    num_epochs: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """How often each trace is seen, instead of `num_steps`; the last batch of an epoch may be smaller."""
    batch_size: int = Field(default=32, ge=1)
    """Sequences of one optimizer step, over all ranks."""
    validation_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the problems whose traces are not trained on: their cross entropy is measured every `learner.checkpoint_every` steps and at
    the end. 0 measures none."""
    optimizer: Optimizer
    """Its learning rate schedule spans the stage."""

    @model_validator(mode="after")
    def _length_is_given_once(self) -> "SftConfig":
        if (self.num_steps is None) == (self.num_epochs is None):
            seen = "neither" if self.num_steps is None else f"num_steps {self.num_steps} and num_epochs {self.num_epochs:g}"
            raise ValueError(
                f"num_steps and num_epochs both say how long the stage is, so give one of them (null for the other), not {seen}"
            )
        return self


class GrpoConfig(Section):
    """One reinforcement learning stage, from the iteration's SFT model."""

    num_steps: int = Field(ge=1)
    """Rounds of generating, verifying and learning."""
    problems_per_step: int = Field(default=32, ge=1)
    """P, fresh problems of one step."""
    problems: ProblemChoice | None = None
    """Which problems those are; None takes from all."""
    num_completions: int = Field(default=8, ge=2)
    """G, completions per problem."""
    updates_per_step: int = Field(default=1, ge=1)
    """Optimizer steps taken on one step's completions."""
    dynamic_sampling: bool = False
    """Replace groups whose scores are all equal by those of fresh problems, until a step has P others (DAPO, arXiv 2503.14476, section
    3.2). Figures of a step count the replaced groups too."""
    max_staleness: int = Field(default=0, ge=0)
    """Steps that the weights which begin an answer may be behind those that learn from it. 0 generates, then learns, strictly on-policy
    and bit-reproducible; 1 generates the next step's answers meanwhile; more keeps that many steps' answers in work."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the rollouts; the learner's log-probabilities are taken at it too."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Rollouts are drawn from the most probable tokens that together have this probability (nucleus sampling, arXiv 1904.09751). The
    learner's distribution is not cut off, so below 1 its ratio to the rollouts is too small by up to this factor."""
    top_k: int = Field(default=0, ge=0)
    """Rollouts are drawn from so many most probable tokens; 0 is all. Nor is the learner's distribution cut off by this."""
    bad_words: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Words that rollouts do not draw: the tokens in a row that the tokenizer makes of each, at the beginning of a text or after a space.
    The learner's distribution has them."""
    advantage: Advantage = "grpo"
    """A reward less its group's mean: over the group's standard deviation (`grpo`, arXiv 2402.03300, section 4.1.2), as it is (`dr_grpo`,
    arXiv 2503.20783, section 3.2), or over that of the step's groups that are not flat (`reinforce_pp`, arXiv 2501.03262v9, eq. 6 and 7);
    less the mean of the group's others (`rloo`, arXiv 2402.14740, section 2.3)."""
    ratio: Ratio = "token"
    """What is clipped where a step has several updates, policy over the policy at the start of the step: of each token (PPO, arXiv
    1707.06347, eq. 7), the geometric mean of its sequence (GSPO, arXiv 2507.18071, eq. 7), or as a weight without a gradient (CISPO, arXiv
    2506.13585, eq. 4)."""
    clip_low: float = Field(default=0.2, gt=0, le=1)
    """The ratio is clipped below at 1 less this, from the second update of a step on; in the first it is 1. 1 is no lower bound."""
    clip_high: float = Field(default=0.2, gt=0)
    """The ratio is clipped above at 1 plus this (DAPO, arXiv 2503.14476, eq. 10, lets it differ from `clip_low`)."""
    clip_dual: float | None = Field(default=None, gt=1)
    """Largest ratio that counts for a negative advantage (dual clip, arXiv 1912.09729, eq. 5); None is without bound."""
    kl_coef: float = Field(default=0.0, ge=0)
    """Weight of the KL to the stage's first model; 0 keeps no reference model."""
    kl_estimator: KlEstimator = "k3"
    """How it is estimated (Schulman, "Approximating KL divergence", 2020): log ratio, half its square, or GRPO's (arXiv 2402.03300, eq. 4).
    Only `k2` in the loss and `k1` in the reward have the gradient of KL(policy || reference) (arXiv 2501.03262v9, appendix B.1)."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where it goes: a term of the loss (arXiv 2402.03300, eq. 3), or taken from the advantage of the token and those before it (arXiv
    2501.03262v9, eq. 4); which groups are flat is the verifier's word alone."""
    rollout_correction: RolloutCorrection = "token"
    """Importance weights for what rollout and learner differ by: of each token, at most `rollout_cap` (truncated importance sampling,
    Ionides, JCGS 17(2), 2008); of the sequence, 0 above the cap; or 0 where its geometric mean is off by more than the cap, else 1."""
    rollout_cap: float = Field(default=2.0, gt=1)
    """Cap of `rollout_correction`; `geometric` wants one close to 1, such as 1.01."""
    normalisation: Normalisation = "token"
    """What counts alike in the loss of an update: every token, every sequence (arXiv 2402.03300, eq. 3) or every group (arXiv 2503.14476,
    eq. 8)."""
    mask_truncated: bool = False
    """Leave answers that ran into `max_completion_tokens` out of the loss (overlong filtering, DAPO, arXiv 2503.14476, section 3.4), though
    not out of their group's mean."""
    sft_coef: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the cross entropy of the iteration's traces in the loss (mean over their response tokens), as InstructGPT mixes its
    pretraining loss in (arXiv 2203.02155, section 3.5, eq. 2); 0 mixes none in."""
    sft_batch_size: int = Field(default=32, ge=1)
    """Traces of one update where `sft_coef` is above 0."""
    max_parity_gap: float = Field(default=1e-5, gt=0)
    """Largest mean difference of rollout and learner log-probabilities over an answer at the start of the stage, else the run stops."""
    max_flat_steps: int = Field(default=5, ge=1)
    """Stop after this many steps in a row in which every group's scores are equal, or, with `dynamic_sampling`, after as many groups in a
    row of one step."""
    keep_rollouts: bool = False
    """Write the scored groups of every step to `rollouts/` in the stage's folder, which `ovt-ray replay` reads."""
    optimizer: Optimizer
    """Its learning rate schedule spans the stage."""

    @property
    def cuts(self) -> dict[str, str]:
        """What the rollouts' distribution lacks and the learner's has, by key."""
        values = {"top_p": self.top_p if self.top_p < 1 else None, "top_k": self.top_k or None, "bad_words": list(self.bad_words) or None}
        return {key: str(value) for key, value in values.items() if value is not None}

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> "GrpoConfig":
        given = self.model_fields_set
        if self.kl_coef == 0 and (unused := sorted({"kl_estimator", "kl_in"} & given)):
            raise ValueError(f"kl_coef 0 keeps no reference model, so {unused[0]} has no effect: raise kl_coef, or leave {unused[0]} out")
        if self.kl_coef > 0 and (self.kl_estimator, self.kl_in) == ("k1", "loss"):
            raise ValueError("kl_estimator 'k1' has an expected gradient of 0 in the loss: use 'k2' or 'k3', or kl_in 'reward'")
        if self.kl_in == "reward" and self.kl_estimator != "k1":
            raise ValueError(
                f"kl_in 'reward' with kl_estimator {self.kl_estimator!r} follows the gradient of no KL: set kl_estimator to 'k1'"
            )
        if self.ratio == "clipped_weight" and self.clip_dual is not None:
            raise ValueError("ratio 'clipped_weight' bounds every weight already, so clip_dual has no effect: leave it out")
        if self.rollout_correction == "none" and "rollout_cap" in given:
            raise ValueError("rollout_correction 'none' has no cap: leave rollout_cap out, or choose 'token', 'sequence' or 'geometric'")
        if self.max_staleness > 0 and self.rollout_correction == "none":
            raise ValueError(
                f"max_staleness {self.max_staleness} learns from answers of older weights, uncorrected under rollout_correction 'none': "
                "set it to 'token', 'sequence' or 'geometric', or max_staleness to 0"
            )
        if self.sft_coef == 0 and "sft_batch_size" in given:
            raise ValueError("sft_coef 0 mixes no traces in, so sft_batch_size has no effect: raise sft_coef, or leave sft_batch_size out")
        if self.sft_coef > 0 and self.temperature != 1:
            raise ValueError(
                f"sft_coef {self.sft_coef:g} is for a cross entropy at temperature 1, but the stage's log-probabilities are taken at "
                f"temperature {self.temperature:g}: set temperature to 1, or sft_coef to 0"
            )
        return self


class IterationConfig(Section):
    """One turn of the recipe: traces, SFT from base, GRPO. Without `distil` and `sft` it is one more pass of GRPO."""

    distil: DistilConfig | None = None
    """Who writes the traces; None writes none."""
    sft: SftConfig | None = None
    """Fine-tuning on them, from the base model; None has the iteration go on from the model of the one before, the first from the base."""
    grpo: GrpoConfig
    """Reinforcement learning, from the SFT model."""

    @model_validator(mode="after")
    def _traces_are_trained_on(self) -> "IterationConfig":
        if (self.distil is None) != (self.sft is None):
            given, lacking = ("distil", "sft") if self.sft is None else ("sft", "distil")
            raise ValueError(f"{given} without {lacking}: traces are written to be trained on, so give both, or neither for GRPO alone")
        return self
