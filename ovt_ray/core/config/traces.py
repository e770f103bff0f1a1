"""The configuration of how chains become traces, and of an endpoint that writes them: parts of `DistilConfig`."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from ovt_ray.core.config.section import Fraction, Section

Keyword = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
SelectionRule = Literal["shortest", "longest", "second_longest", "random", "all"]
REFLECTIONS = ("But wait", "But the question", "But hold on", "Wait", "Hold on", "Alternatively", "Let me double-check")


class TraceFilters(Section):
    """What a correct chain must keep to become a trace; docs/distillation.md has each rule in full."""

    format: bool = True
    """Drop what is not `<think>`, `</think>`, `<answer>`, `</answer>`, each once and in this order, or holds control characters."""
    reflection: Literal["cut", "drop", "keep"] = "cut"
    """A chain that doubts itself is cut there with its final answer kept (arXiv 2503.17352, section 3), dropped, or kept as it is."""
    reflection_keywords: tuple[Keyword, ...] = Field(default=REFLECTIONS, min_length=1)
    """What a doubt begins with, as whole words, capitals as given."""
    max_words: int | None = Field(default=500, ge=1)
    """Longer chains, after the cut, are dropped; None drops none."""
    max_repetition: Fraction | None = 0.5
    """Drop a chain where a larger share of the runs of four words have stood in it before; None drops none."""
    max_foreign: Fraction | None = 0.01
    """Drop a chain with a larger share of letters in scripts that neither mathematics nor its problem uses; None drops none."""
    max_similarity: Annotated[float, Field(gt=0, le=1)] | None = 0.9
    """Drop a chain at least this similar (Jaccard index of runs of three words) to a chosen one of the same problem or of one that has
    the same pictures and answer and as similar a question; 1 drops equals only, None drops none."""
    contamination: bool = True
    """Drop the chains of a problem that is, by picture or question, one of those that the run is measured on."""

    @model_validator(mode="after")
    def _keywords_have_a_use(self) -> "TraceFilters":
        if self.reflection == "keep" and "reflection_keywords" in self.model_fields_set:
            raise ValueError("reflection 'keep' looks for no reflection_keywords: leave them out, or choose 'cut' or 'drop'")
        return self


class EndpointConfig(Section):
    """A server with OpenAI's chat completions interface, such as `vllm serve`, that sees the images and writes whole chains."""

    url: str = Field(pattern=r"^https?://[^\s/]+\S*$")
    """Base address, as `http://host:8000/v1`; `/chat/completions` and `/models` are added to it."""
    model: str = Field(min_length=1)
    """Name of the model, as the server lists it."""
    api_key_env: str | None = Field(default=None, min_length=1)
    """Name of the environment variable of the driver that holds the key; None sends none."""
    instruction: str = (
        "Reason step by step between <think> and </think>. Then write the final answer, and nothing else, between <answer> and </answer>."
    )
    """Added after the question and its choices, in place of `model.instruction`."""
    max_tokens: int = Field(default=4096, ge=1)
    """Longest chain."""
    concurrency: int = Field(default=16, ge=1)
    """Problems that are being asked about at the same time, each with one request."""
    num_attempts: int = Field(default=8, ge=1)
    """Failed requests for one problem before it stays unanswered, or the run stops because the server is gone; the waits between them
    double, from one second to a minute."""
    deadline_s: float = Field(default=600, gt=0)
    """Longest time of one request."""
