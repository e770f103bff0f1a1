"""The values that flow between the services: a frozen dataclass per stage of a sample's life.

`Problem` -> `Completion` -> `RolloutGroup` -> `Score` -> `TrainSample` -> `UpdateStats`.
Dimension letters used in comments: P problems, G completions per problem, B sequences, T tokens, V vocabulary.
This module imports nothing heavy, so every process can import it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

ImageSource = str | bytes
"""A path that every node can read, or the bytes of an encoded (PNG, JPEG, ...) image."""


class AnswerKind(StrEnum):
    """Rule that compares the gold answer with an extracted answer."""

    NUMBER = "number"
    TEXT = "text"
    YESNO = "yesno"
    CHOICE = "choice"
    LATEX = "latex"
    LIST = "list"


class Outcome(StrEnum):
    """Verdict on a completion. Every verdict except `UNSCORABLE` is a statement about the model."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSEABLE = "unparseable"
    """No final answer could be read from the text."""
    UNSCORABLE = "unscorable"
    """The verifier failed or was killed. The completion is left out of the training and counted."""


class Failure(StrEnum):
    """Cause of a missing score."""

    DEADLINE = "deadline"
    """The reward took too long, and its process was killed."""
    MEMORY = "memory"
    """The reward's process needed more memory than the limit."""
    CRASH = "crash"
    """The reward's process or actor ended, or was killed from outside."""
    ERROR = "error"
    """The reward raised, or returned a value that is no score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question about images, with a gold final answer."""

    id: str
    """Name of the problem, unique in its data set. Seeds and shuffles depend on it."""
    question: str
    """Text as the user wrote it, without image placeholders, choices or format instructions."""
    images: tuple[ImageSource, ...]
    """Images in the order of the prompt, which shows them before the question. Empty for a text-only problem."""
    answer: str
    """Gold answer. For `CHOICE` it is the text of an option in `choices`."""
    kind: AnswerKind
    choices: tuple[str, ...] = ()
    """Options of a `CHOICE` problem, shown as (A), (B), ...; empty otherwise."""
    precision: int | None = None
    """Number of decimals that the benchmark compares after rounding; None where values must be equal."""
    unit: str = ""
    """Unit of a gold answer that does not include its unit. An answer in another unit is converted, or wrong."""
    source: str = ""
    """Name of the data set or generator."""
    solution: str = ""
    """Worked solution of the data set. It ends before the final answer, or it is a whole response in the format of the recipe. Empty if
    the data have none."""

    def __post_init__(self) -> None:
        if self.kind is AnswerKind.CHOICE and self.answer not in self.choices:
            raise ValueError(f"problem {self.id}: answer {self.answer!r} is not one of its choices {self.choices}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling settings of completions."""

    num_completions: int
    """G, the number of completions per problem."""
    temperature: float
    """Sampling temperature; 0 is greedy."""
    max_tokens: int
    """Upper bound on the tokens of a completion."""
    top_p: float = 1.0
    """Total probability of the most probable tokens to draw from. `rollout_logprobs` are of the distribution over these tokens."""
    top_k: int = 0
    """Number of most probable tokens to draw from; 0 is all. `rollout_logprobs` are of the distribution over these tokens."""
    bad_words: tuple[str, ...] = ()
    """Words that are not drawn: for each, the token sequences that the tokenizer makes of it at the beginning of a text and after a
    space. `rollout_logprobs` are of the distribution without them."""
    seed: int
    """Seed of every completion, together with the problem's id and the completion's index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSpan:
    """Consecutive tokens that the same version of the weights sampled."""

    version: int
    """Number of the version; 0 for the weights that the engine started with."""
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """An answer of the policy. Per-token fields have equal lengths (T)."""

    token_ids: tuple[int, ...]
    """(T,) sampled tokens, with the end-of-turn token if the model produced it."""
    rollout_logprobs: tuple[float, ...]
    """(T,) natural log-probability of each token under the sampling distribution, computed by the rollout engine."""
    text: str
    """Decoded tokens without special tokens."""
    finish_reason: Literal["stop", "length"]
    versions: tuple[VersionSpan, ...]
    """Weight versions that sampled the tokens, in order. There are several spans if new weights arrived during the generation."""

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.rollout_logprobs):
            raise ValueError(f"{len(self.token_ids)} tokens but {len(self.rollout_logprobs)} log-probabilities")
        if len(self.token_ids) != sum(span.num_tokens for span in self.versions):
            raise ValueError(f"{len(self.token_ids)} tokens but {self.versions}")

    @property
    def oldest_version(self) -> int:
        """Version of the oldest weights that sampled any of the tokens."""
        return min(span.version for span in self.versions)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """The G completions of a problem."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    """Prompt tokens that the engine received, with image placeholders expanded."""
    completions: tuple[Completion, ...]
    """(G,)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The reward and the verdict of a completion."""

    value: float
    """Reward. It is 0 and has no meaning where `outcome` is `UNSCORABLE`."""
    outcome: Outcome
    extracted: str | None
    """Final answer that was read from the text; None if the text has none."""
    reason: str = ""
    """Explanation for a person; always given for `UNPARSEABLE` and `UNSCORABLE`."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Value of each part of a combined reward by its name, before weighting. Empty if the reward has no parts."""
    failure: Failure | None = None
    """Cause of an `UNSCORABLE` outcome. None for other outcomes, and where the reward itself returned `UNSCORABLE`, for example because
    of a bad gold answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredGroup:
    """A group with a score per completion."""

    group: RolloutGroup
    scores: tuple[Score, ...]
    """(G,)"""

    def __post_init__(self) -> None:
        if len(self.group.completions) != len(self.scores):
            raise ValueError(f"{len(self.group.completions)} completions but {len(self.scores)} scores")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A problem and a verified response to learn from."""

    problem: Problem
    response: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSample:
    """A sequence to learn from. The loss covers every completion token and no prompt token."""

    problem: Problem
    """Problem from which the learner renders the prompt and loads the images."""
    prompt_ids: tuple[int, ...] | None = None
    """Prompt tokens that the rollout engine received. The learner refuses the sample if it renders a different prompt. None for SFT."""
    completion_ids: tuple[int, ...]
    """(T,) tokens of the completion."""
    rollout_logprobs: tuple[float, ...] | None = None
    """(T,) log-probabilities by the rollout engine; None for SFT. In a GRPO stage, None marks a mixed-in trace, whose loss is the cross
    entropy."""
    proximal_logprobs: tuple[float, ...] | None = None
    """(T,) log-probabilities by the policy at the start of the step. None for SFT, and in a step's first update, where the policy still
    is that policy."""
    advantage: float = 1.0
    """Advantage of every token of the completion; 1 for SFT."""

    def __post_init__(self) -> None:
        if not self.completion_ids:
            raise ValueError(f"sample of problem {self.problem.id} has no completion tokens")
        for logprobs in (self.rollout_logprobs, self.proximal_logprobs):
            if logprobs is not None and len(logprobs) != len(self.completion_ids):
                raise ValueError(f"sample of problem {self.problem.id}: tokens and log-probabilities differ in length")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStats:
    """Statistics of an optimizer step, over all ranks.

    Means, shares and quantiles are over the loss tokens of the whole batch, without the tokens of traces mixed into a GRPO stage.
    """

    loss: float
    """Mean loss over the unit of `grpo.normalisation`, plus `grpo.sft_coef` times `sft_loss`."""
    sft_loss: float
    """Mean cross entropy of the tokens of traces mixed into a GRPO stage, in nats. 0 without such traces, and for SFT, whose cross
    entropy is `loss`."""
    grad_norm: float
    """Norm of the gradient before clipping."""
    learning_rate: float
    num_samples: int
    num_loss_tokens: int
    entropy: float
    """Mean entropy of the policy's next-token distribution, in nats."""
    ratio_p01: float
    """1 % quantile of the token ratio policy / rollout, which does not depend on `grpo.ratio`; 1 for SFT."""
    ratio_p50: float
    """Median of the same ratio."""
    ratio_p99: float
    """99 % quantile of the same ratio."""
    clip_low: float
    """Share of tokens at the lower clip bound; 0 for SFT."""
    clip_high: float
    """Share of tokens at the upper clip bound or at the dual clip's bound; 0 for SFT."""
    kl_rollout: float
    """Mean k3 estimate of KL(rollout || policy), never negative; 0 for SFT."""
    kl_rollout_k1: float
    """Mean k1 estimate of KL(rollout || policy), which is log(rollout / policy); 0 for SFT."""
    effective_share: float
    """Effective sample size of the weights of `grpo.rollout_correction`, (sum w)^2 / sum w^2, over the number of tokens. 1 where all
    weights are equal."""
    kl_ref: float
    """Mean k3 estimate of KL(policy || reference); 0 without a reference model."""
