"""Configuration of the filters that turn chains into traces, and of an endpoint that writes chains: parts of `DistilConfig`."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from ovt_ray.core.config.section import Fraction, Section

Keyword = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
SelectionRule = Literal["shortest", "longest", "second_longest", "random", "all"]
REFLECTIONS = ("But wait", "But the question", "But hold on", "Wait", "Hold on", "Alternatively", "Let me double-check")


class TraceFilters(Section):
    """Rules that a correct chain must keep to become a trace. docs/distillation.md has each rule in full."""

    format: bool = True
    """Require `<think>`, `</think>`, `<answer>`, `</answer>`, each once and in this order, and no control characters."""
    reflection: Literal["cut", "drop", "keep"] = "cut"
    """Treatment of a chain that doubts itself: cut it at the doubt and keep its final answer (arXiv 2503.17352, section 3), drop it, or
    keep it unchanged."""
    reflection_keywords: tuple[Keyword, ...] = Field(default=REFLECTIONS, min_length=1)
    """Words that begin a doubt: whole words, with capitals as given."""
    max_words: int | None = Field(default=500, ge=1)
    """Upper bound on the words of a chain after the cut; None is no bound."""
    max_repetition: Fraction | None = 0.5
    """Upper bound on the share of a chain's four-word runs that repeat an earlier run; None is no bound."""
    max_foreign: Fraction | None = 0.01
    """Upper bound on the share of letters in scripts that neither mathematics nor the problem uses; None is no bound."""
    max_similarity: Annotated[float, Field(gt=0, le=1)] | None = 0.9
    """Similarity to a chosen chain (Jaccard index of three-word runs) from which a chain is dropped. The comparison covers the same
    problem, and problems with the same pictures, the same answer and a question at least this similar. With 1 only equal chains are
    dropped, with None no chain."""
    contamination: bool = True
    """Drop the chains of a problem that equals, by picture or question, a problem that the run is measured on."""

    @model_validator(mode="after")
    def _keywords_have_a_use(self) -> "TraceFilters":
        if self.reflection == "keep" and "reflection_keywords" in self.model_fields_set:
            raise ValueError("reflection 'keep' looks for no reflection_keywords: leave them out, or choose 'cut' or 'drop'")
        return self


class EndpointConfig(Section):
    """A server with OpenAI's chat completions interface, such as `vllm serve`, that receives the images and writes whole chains."""

    url: str = Field(pattern=r"^https?://[^\s/]+\S*$")
    """Base address, such as `http://host:8000/v1`. The client appends `/chat/completions` and `/models`."""
    model: str = Field(min_length=1)
    """Name of the model, as the server lists it."""
    api_key_env: str | None = Field(default=None, min_length=1)
    """Name of the driver's environment variable that holds the key; None sends no key."""
    instruction: str = (
        "Reason step by step between <think> and </think>. Then write the final answer, and nothing else, between <answer> and </answer>."
    )
    """Added after the question and its choices, in place of `model.instruction`."""
    max_tokens: int = Field(default=4096, ge=1)
    """Upper bound on the tokens of a chain."""
    concurrency: int = Field(default=16, ge=1)
    """Number of simultaneous requests, each for one problem."""
    num_attempts: int = Field(default=8, ge=1)
    """Number of failed requests after which a problem stays unanswered, or the run stops if the server is gone. The waits between them
    double, from one second to a minute."""
    deadline_s: float = Field(default=600, gt=0)
    """Upper bound on the seconds of one request."""
