"""What flows between the services: one frozen dataclass per stage of a sample's life.

`Problem` -> `Completion` -> `RolloutGroup` -> `Score` -> `TrainSample` -> `UpdateStats`.
Dimension letters used in comments: P problems, G completions per problem, B sequences, T tokens, V vocabulary.
This module imports nothing heavy, so that every process can afford it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

ImageSource = str | bytes
"""A path that every node can read, or the bytes of an encoded (PNG, JPEG, ...) image."""


class AnswerKind(StrEnum):
    """How a gold answer is compared with an extracted one."""

    NUMBER = "number"
    TEXT = "text"
    YESNO = "yesno"
    CHOICE = "choice"
    LATEX = "latex"
    LIST = "list"


class Outcome(StrEnum):
    """The verdict on one completion. Only `UNSCORABLE` is no statement about the model."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSEABLE = "unparseable"
    """No final answer could be read from the text."""
    UNSCORABLE = "unscorable"
    """The verifier failed or was killed: the completion is left out and counted."""


class Failure(StrEnum):
    """What happened to a reward that gave no score."""

    DEADLINE = "deadline"
    """It took too long; its process was killed."""
    MEMORY = "memory"
    """Its process needed more memory than it may have."""
    CRASH = "crash"
    """Its process or actor ended, or was killed from outside."""
    ERROR = "error"
    """It raised, or returned what is no score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One question about images with a gold final answer."""

    id: str
    """Unique in its data set; seeds and shuffles depend on it."""
    question: str
    """Text as the user wrote it, without image placeholders, choices or format instructions."""
    images: tuple[ImageSource, ...]
    """In the order in which the prompt shows them, before the question. Empty for a text-only problem."""
    answer: str
    """The gold answer. For `CHOICE` it is the text of one of `choices`."""
    kind: AnswerKind
    choices: tuple[str, ...] = ()
    """The options of a `CHOICE` problem, shown as (A), (B), ...; empty otherwise."""
    precision: int | None = None
    """Digits after the point that the benchmark compares, after rounding; None where values must be equal."""
    unit: str = ""
    """Unit of the gold answer where it is not written in it; an answer in another unit is converted or wrong."""
    source: str = ""
    """Name of the data set or generator."""
    solution: str = ""
    """Worked solution that came with the data, ending before the final answer, or a whole response in the format of the recipe; empty if
    there is none."""

    def __post_init__(self) -> None:
        if self.kind is AnswerKind.CHOICE and self.answer not in self.choices:
            raise ValueError(f"problem {self.id}: answer {self.answer!r} is not one of its choices {self.choices}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are drawn."""

    num_completions: int
    """G, completions per problem."""
    temperature: float
    """0 is greedy."""
    max_tokens: int
    top_p: float = 1.0
    """Draw from the most probable tokens that together have this probability; `rollout_logprobs` are of that distribution."""
    top_k: int = 0
    """Draw from so many most probable tokens; 0 is all. `rollout_logprobs` are of that distribution, and of that without `bad_words`."""
    bad_words: tuple[str, ...] = ()
    """Words that are not drawn: the tokens in a row that the tokenizer makes of each, at the beginning of a text or after a space."""
    seed: int
    """Seeds every completion together with the problem's id and the completion's index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSpan:
    """Consecutive tokens that one version of the weights sampled."""

    version: int
    """0 for the weights that the engine started with."""
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer of the policy. Per-token fields have equal lengths (T)."""

    token_ids: tuple[int, ...]
    """(T,) as sampled, with the end-of-turn token if the model produced it."""
    rollout_logprobs: tuple[float, ...]
    """(T,) natural log-probability of each token under the sampling distribution, by the rollout engine."""
    text: str
    """Decoded without special tokens."""
    finish_reason: Literal["stop", "length"]
    versions: tuple[VersionSpan, ...]
    """Which weights sampled which tokens, in order: more than one span where weights were loaded in the middle."""

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
    """The G completions of one problem."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    """Prompt as the engine saw it, image placeholders expanded."""
    completions: tuple[Completion, ...]
    """(G,)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What the verifier says of one completion."""

    value: float
    """The reward. 0 where `outcome` is `UNSCORABLE`, and not to be used there."""
    outcome: Outcome
    extracted: str | None
    """The final answer as read from the text, None if there is none."""
    reason: str = ""
    """Why, for a person; always given for `UNPARSEABLE` and `UNSCORABLE`."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Value of each part of a combined reward by its name, before weighting; empty if there are none."""
    failure: Failure | None = None
    """What made an answer `UNSCORABLE`; None for other outcomes, and where the reward itself says so, for example of a bad gold answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredGroup:
    """A group with one score per completion."""

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
    """One sequence to learn from: the loss is on every completion token, never on the prompt."""

    problem: Problem
    """The learner renders the prompt and loads the images from it."""
    prompt_ids: tuple[int, ...] | None = None
    """Prompt as the rollout engine saw it; the learner refuses the sample if it renders another. None for SFT."""
    completion_ids: tuple[int, ...]
    """(T,)"""
    rollout_logprobs: tuple[float, ...] | None = None
    """(T,), None for SFT. In a GRPO stage, a sample without them is a trace that is mixed in with the cross entropy as its loss."""
    proximal_logprobs: tuple[float, ...] | None = None
    """(T,) by the policy as it stood at the start of the step. None in a step's first update, where that is the policy, and for SFT."""
    advantage: float = 1.0
    """Same for all tokens; 1 for SFT."""

    def __post_init__(self) -> None:
        if not self.completion_ids:
            raise ValueError(f"sample of problem {self.problem.id} has no completion tokens")
        for logprobs in (self.rollout_logprobs, self.proximal_logprobs):
            if logprobs is not None and len(logprobs) != len(self.completion_ids):
                raise ValueError(f"sample of problem {self.problem.id}: tokens and log-probabilities differ in length")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStats:
    """One optimizer step, over all ranks. Means, shares and quantiles are over the loss tokens of the whole batch, without those of traces
    that are mixed into a GRPO stage."""

    loss: float
    """Its mean over what `grpo.normalisation` says, plus `grpo.sft_coef` times `sft_loss`."""
    sft_loss: float
    """Mean cross entropy of the tokens of traces mixed into a GRPO stage, nats; 0 without, and for SFT, where it is `loss`."""
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    num_samples: int
    num_loss_tokens: int
    entropy: float
    """Mean entropy of the policy's next-token distribution, nats."""
    ratio_p01: float
    """Quantiles of policy / rollout, whatever ratio is clipped: 1 % of the tokens have at most this; 1 for SFT."""
    ratio_p50: float
    ratio_p99: float
    clip_low: float
    """Share of tokens held by the lower end of the clip range; 0 for SFT."""
    clip_high: float
    """Share held by the upper end, or by the dual clip; 0 for SFT."""
    kl_rollout: float
    """Mean k3 estimate of KL(rollout || policy), never negative; 0 for SFT."""
    kl_rollout_k1: float
    """Its k1 estimate, the mean of log(rollout / policy); 0 for SFT."""
    effective_share: float
    """Effective sample size of the weights of `grpo.rollout_correction`, (sum w)^2 / sum w^2, over the tokens; 1 where all are alike."""
    kl_ref: float
    """Mean k3 estimate of KL(policy || reference); 0 without a reference model."""
