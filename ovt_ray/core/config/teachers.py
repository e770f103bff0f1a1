"""The configuration of the two models that write traces where `distil.source` is `caption`.

Light as `ovt_ray.core.config.run`, which has the rest.
"""

from pydantic import Field, model_validator

from ovt_ray.core.config.section import Dtype, Section


class CaptionerConfig(Section):
    """The model that describes images where `distil.source` is `caption`. It has the rollout workers' place while it works."""

    path: str = "Qwen/Qwen2.5-VL-3B-Instruct"
    """A Hugging Face folder or hub name of a vision-language model, or `embedded` for the tiny one that comes with the project."""
    dtype: Dtype = "bfloat16"
    """Of weights and activations."""
    max_model_len: int = Field(default=4096, ge=16)
    """Longest prompt and caption together, in tokens."""
    max_completion_tokens: int = Field(default=1024, ge=1)
    """Longest caption; a longer one is cut off there."""
    max_pixels: int = Field(default=262_144, ge=28 * 28)
    """Larger images are scaled down to this many pixels."""
    system_prompt: str = ""
    """First turn of its prompt; empty for none."""
    instruction: str = (
        "Describe this image in detail. Name every object, label, number and line of text that it shows, with its position, colour, "
        "size and value, and how the parts relate. Somebody who cannot see the image has to answer questions from your words alone."
    )
    """What it is asked, after the images. It does not hear the question."""
    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""

    @model_validator(mode="after")
    def _prompts_have_room(self) -> "CaptionerConfig":
        if self.max_completion_tokens >= self.max_model_len:
            raise ValueError(
                f"max_completion_tokens ({self.max_completion_tokens}) leaves no room for a prompt in max_model_len "
                f"({self.max_model_len}): raise the latter"
            )
        return self


class ReasonerConfig(Section):
    """The text-only model that writes chains where `distil.source` is `caption`. It has the rollout workers' place while it works."""

    path: str = "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B"
    """A Hugging Face folder or hub name of a language model, or `embedded` for the tiny one that comes with the project."""
    dtype: Dtype = "bfloat16"
    """Of weights and activations."""
    max_model_len: int = Field(default=8192, ge=16)
    """Longest prompt and chain together, in tokens."""
    max_completion_tokens: int = Field(default=4096, ge=1)
    """Longest chain; a longer one has no final answer."""
    system_prompt: str = ""
    """First turn of its prompt; empty for none."""
    instruction: str = (
        "An image is described like this:\n{caption}\n\nAnswer this question about it:\n{question}\n\n"
        "Reason step by step from the description, as if you saw the image yourself. Put your final answer within \\boxed{}."
    )
    """What it is asked: {caption} stands for the caption, {question} for the question and its choices."""
    temperature: float = Field(default=0.6, ge=0)
    """Of its chains; the model's authors advise 0.6."""

    @model_validator(mode="after")
    def _instruction_has_both_places(self) -> "ReasonerConfig":
        if missing := [place for place in ("{caption}", "{question}") if place not in self.instruction]:
            raise ValueError(f"instruction has no {missing[0]}: the reasoner would not be told; put it in")
        return self
