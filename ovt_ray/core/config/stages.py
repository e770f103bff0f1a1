"""Configuration of the training stages: distillation, SFT, GRPO and their optimizer. Imports as little as `ovt_ray.core.config.run`."""

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
"""Pass rate of a problem when the run last measured it: at least 4 in 5, at least 2 in 5, above 0, and 0."""


class Optimizer(Section):
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = Field(ge=0)
    """Peak learning rate, reached after the warm-up."""
    warmup: Fraction = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    final_lr: Fraction = 0.0
    """Learning rate of the last step, as a share of `learning_rate`."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Upper bound on the norm of the whole gradient, which is clipped to it."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moments."""
    freeze: tuple[ModelPart, ...] = ()
    """Parts of the model that are not trained. The output head belongs to the language model."""


class ProblemChoice(Section):
    """The problems that a stage takes."""

    sources: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = Field(default=None, min_length=1)
    """Weight of each source in the mixture, relative to the sum of all. In the embedded world a source is a kind of question. None takes
    every problem with the same probability."""
    tiers: tuple[Tier, ...] | None = Field(default=None, min_length=1)
    """Difficulty tiers to take problems from. A problem without a measured pass rate is in no tier. The embedded world draws new problems
    for each stage, so there only problems of earlier stages have a tier. None takes all problems, measured or not."""

    @model_validator(mode="after")
    def _chooses(self) -> "ProblemChoice":
        if self.sources is None and self.tiers is None:
            raise ValueError("problems: neither sources nor tiers is given, so nothing is chosen: give one of them, or leave problems out")
        return self


class DistilConfig(Section):
    """A distillation stage: who writes traces, and which traces are kept."""

    source: Literal["caption", "dataset", "policy", "endpoint"]
    """Author of the chains. `caption`: a captioner describes each image and a text-only reasoner answers. `dataset`: the worked solutions
    of the data set. `policy`: the last RL model. `endpoint`: a model behind an OpenAI-compatible server."""
    num_problems: int = Field(ge=1)
    """Number of problems that chains are requested for."""
    num_chains: int = Field(default=4, ge=1)
    """k, the number of chains requested per problem."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature of the policy's and the endpoint's chains."""
    problems: ProblemChoice | None = None
    """Choice of the problems; None takes from all."""
    hard: bool = False
    """Draw the embedded world's harder mixture of questions."""
    select: SelectionRule = "shortest"
    """Order in which correct chains that pass the filters are taken. `shortest` (in words) is the rule of arXiv 2503.17352, section 3, and
    `second_longest` of the paper's published script, which starts below the longest. `random` follows the run's seed, and `all` takes
    every chain."""
    traces_per_problem: int = Field(default=1, ge=1)
    """Upper bound on the traces of one problem."""
    per_source: int | None = Field(default=None, ge=1)
    """Upper bound on the traces of all problems with one `source`; None takes all."""
    filters: TraceFilters = TraceFilters()
    """Rules that a chain must keep to become a trace."""
    endpoint: EndpointConfig | None = None
    """Server that writes the chains of `source: endpoint`."""

    @property
    def num_asked(self) -> int:
        """Number of chains requested per problem. A data set has one chain per problem."""
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
    """A supervised fine-tuning stage from the base model. The loss is the cross entropy of the response tokens, without the prompt's."""

    num_steps: int | None = Field(default=None, ge=1)
    """Number of optimizer steps, each on a full batch. The stage repeats the traces as often as needed. Give either this or
    `num_epochs`."""
    num_epochs: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Number of passes over the traces, instead of `num_steps`. The last batch of an epoch may be smaller."""
    batch_size: int = Field(default=32, ge=1)
    """Sequences per optimizer step, summed over all ranks."""
    validation_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the problems that the stage holds out for validation. It measures the cross entropy of their traces every
    `learner.checkpoint_every` steps and at the end. 0 measures none."""
    optimizer: Optimizer
    """Optimizer, whose learning rate schedule spans the stage."""

    @model_validator(mode="after")
    def _length_is_given_once(self) -> "SftConfig":
        if (self.num_steps is None) == (self.num_epochs is None):
            seen = "neither" if self.num_steps is None else f"num_steps {self.num_steps} and num_epochs {self.num_epochs:g}"
            raise ValueError(
                f"num_steps and num_epochs both say how long the stage is, so give one of them (null for the other), not {seen}"
            )
        return self


class GrpoConfig(Section):
    """A reinforcement learning stage from the iteration's SFT model."""

    num_steps: int = Field(ge=1)
    """Number of rounds of generating, verifying and learning."""
    problems_per_step: int = Field(default=32, ge=1)
    """P, the number of fresh problems per step."""
    problems: ProblemChoice | None = None
    """Choice of the problems; None takes from all."""
    num_completions: int = Field(default=8, ge=2)
    """G, the number of completions per problem."""
    updates_per_step: int = Field(default=1, ge=1)
    """Number of optimizer steps on the completions of one step."""
    dynamic_sampling: bool = False
    """Replace zero-variance groups by groups of fresh problems until a step has P groups with a signal (DAPO, arXiv 2503.14476,
    section 3.2). The figures of a step count the replaced groups too."""
    max_staleness: int = Field(default=0, ge=0)
    """Upper bound on the staleness of an answer: the steps between the weights that begin it and the weights that learn from it.
    With 0 a step generates, then learns, strictly on-policy and bit-reproducible. With 1 the engines generate the next step's answers
    during learning. A larger value keeps the answers of that many steps in progress."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature of the rollouts. The learner computes its log-probabilities at the same temperature."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Total probability of the most probable tokens that rollouts draw from (nucleus sampling, arXiv 1904.09751). The learner's
    distribution has all tokens. Below 1, its ratio to the rollouts is therefore too small by up to this factor."""
    top_k: int = Field(default=0, ge=0)
    """Number of most probable tokens that rollouts draw from; 0 is all. The learner's distribution has all tokens."""
    bad_words: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Words that rollouts do not draw. Each forbids the token sequences that the tokenizer makes of it, at the beginning of a text and
    after a space. The learner's distribution has them."""
    advantage: Advantage = "grpo"
    """Definition of the advantage. All but `rloo` subtract the mean of the group's rewards. `grpo` divides by the group's standard
    deviation (arXiv 2402.03300, section 4.1.2). `dr_grpo` does not divide (arXiv 2503.20783, section 3.2). `reinforce_pp` divides by
    the standard deviation over the step's groups without the zero-variance groups (arXiv 2501.03262v9, eq. 6 and 7). `rloo` subtracts
    the mean of the group's other rewards (arXiv 2402.14740, section 2.3)."""
    ratio: Ratio = "token"
    """Definition of the clipped ratio. It compares the policy with the policy at the start of the step, so it matters where a step has
    several updates. `token` is each token's ratio (PPO, arXiv 1707.06347, eq. 7), and `sequence` the geometric mean over the sequence
    (GSPO, arXiv 2507.18071, eq. 7). `clipped_weight` uses the clipped ratio as a weight without a gradient (CISPO, arXiv 2506.13585,
    eq. 4)."""
    clip_low: float = Field(default=0.2, gt=0, le=1)
    """Distance of the lower clip bound from 1; 1 is no lower bound. The ratio is 1 in the first update of a step, so the bound acts from
    the second update on."""
    clip_high: float = Field(default=0.2, gt=0)
    """Distance of the upper clip bound from 1. It may differ from `clip_low` (DAPO, arXiv 2503.14476, eq. 10)."""
    clip_dual: float | None = Field(default=None, gt=1)
    """Upper bound on the ratio where the advantage is negative (dual clip, arXiv 1912.09729, eq. 5); None is no bound."""
    kl_coef: float = Field(default=0.0, ge=0)
    """Weight of the KL to the stage's first model; 0 keeps no reference model."""
    kl_estimator: KlEstimator = "k3"
    """Estimator of the KL (Schulman, "Approximating KL divergence", 2020). `k1` is the log ratio, `k2` half its square, and `k3` GRPO's
    estimator (arXiv 2402.03300, eq. 4). Only `k2` in the loss and `k1` in the reward have the gradient of KL(policy || reference)
    (arXiv 2501.03262v9, appendix B.1)."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Place of the KL. `loss` adds it to the loss (arXiv 2402.03300, eq. 3). `reward` subtracts it from the advantages of the token and
    of the tokens before it (arXiv 2501.03262v9, eq. 4). The verifier's scores alone decide which groups have zero variance."""
    rollout_correction: RolloutCorrection = "token"
    """Importance weights that correct the difference between rollout and learner. `token` weighs each token, at most by `rollout_cap`
    (truncated importance sampling, Ionides, JCGS 17(2), 2008). `sequence` weighs the whole sequence, with 0 above the cap. `geometric`
    gives weight 0 where the geometric mean is off by more than the cap, else 1."""
    rollout_cap: float = Field(default=2.0, gt=1)
    """Cap of `rollout_correction`. For `geometric` choose a value close to 1, such as 1.01."""
    normalisation: Normalisation = "token"
    """Unit with equal weight in the loss of an update: every `token`, every `sequence` (arXiv 2402.03300, eq. 3) or every `group` (arXiv
    2503.14476, eq. 8)."""
    mask_truncated: bool = False
    """Leave answers that reached `max_completion_tokens` out of the loss (overlong filtering, DAPO, arXiv 2503.14476, section 3.4). They
    still count in their group's mean."""
    sft_coef: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the cross entropy of the iteration's traces in the loss, a mean over their response tokens. InstructGPT mixes its
    pretraining loss in the same way (arXiv 2203.02155, section 3.5, eq. 2). 0 mixes none in."""
    sft_batch_size: int = Field(default=32, ge=1)
    """Traces per update where `sft_coef` is above 0."""
    max_parity_gap: float = Field(default=1e-5, gt=0)
    """Upper bound on the mean difference of rollout and learner log-probabilities over an answer. The run stops if the start of the stage
    measures more."""
    max_flat_steps: int = Field(default=5, ge=1)
    """Number of consecutive steps with zero-variance groups only after which the run stops. With `dynamic_sampling` it is the number of
    consecutive groups within one step."""
    keep_rollouts: bool = False
    """Write the scored groups of every step to `rollouts/` in the stage's folder, where `ovt-ray replay` reads them."""
    optimizer: Optimizer
    """Optimizer, whose learning rate schedule spans the stage."""

    @property
    def cuts(self) -> dict[str, str]:
        """Options that remove tokens from the rollouts' distribution and not from the learner's: value by key."""
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
    """An iteration of the recipe: traces, SFT from the base model, GRPO. Without `distil` and `sft` it is another pass of GRPO."""

    distil: DistilConfig | None = None
    """Distillation stage, which writes the traces; None writes none."""
    sft: SftConfig | None = None
    """Fine-tuning on the traces, from the base model. With None the iteration continues from the model of the previous iteration, and the
    first iteration from the base model."""
    grpo: GrpoConfig
    """Reinforcement learning, from the SFT model."""

    @model_validator(mode="after")
    def _traces_are_trained_on(self) -> "IterationConfig":
        if (self.distil is None) != (self.sft is None):
            given, lacking = ("distil", "sft") if self.sft is None else ("sft", "distil")
            raise ValueError(f"{given} without {lacking}: traces are written to be trained on, so give both, or neither for GRPO alone")
        return self
