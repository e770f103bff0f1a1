"""Configuration of the two models that write traces where `distil.source` is `caption`.

Imports as little as `ovt_ray.core.config.run`.
"""

from pydantic import Field, model_validator

from ovt_ray.core.config.section import Dtype, Section


class CaptionerConfig(Section):
    """The model that describes images where `distil.source` is `caption`. It takes the rollout workers' place while it works."""

    path: str = "Qwen/Qwen2.5-VL-3B-Instruct"
    """Hugging Face folder or hub name of a vision-language model, or `embedded` for the tiny model of this project."""
    dtype: Dtype = "bfloat16"
    """Data type of weights and activations."""
    max_model_len: int = Field(default=4096, ge=16)
    """Upper bound on the tokens of a prompt and its caption together."""
    max_completion_tokens: int = Field(default=1024, ge=1)
    """Upper bound on the tokens of a caption, which is cut off there."""
    max_pixels: int = Field(default=262_144, ge=28 * 28)
    """Upper bound on the pixels of an image. A larger image is scaled down to it."""
    system_prompt: str = ""
    """First turn of the captioner's prompt; empty for none."""
    instruction: str = (
        "Describe this image in detail. Name every object, label, number and line of text that it shows, with its position, colour, "
        "size and value, and how the parts relate. Somebody who cannot see the image has to answer questions from your words alone."
    )
    """Request that follows the images. The captioner does not receive the question."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature of the captions; 0 is greedy."""

    @model_validator(mode="after")
    def _prompts_have_room(self) -> "CaptionerConfig":
        if self.max_completion_tokens >= self.max_model_len:
            raise ValueError(
                f"max_completion_tokens ({self.max_completion_tokens}) leaves no room for a prompt in max_model_len "
                f"({self.max_model_len}): raise the latter"
            )
        return self


class ReasonerConfig(Section):
    """The text-only model that writes chains where `distil.source` is `caption`. It takes the rollout workers' place while it works."""

    path: str = "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B"
    """Hugging Face folder or hub name of a language model, or `embedded` for the tiny model of this project."""
    dtype: Dtype = "bfloat16"
    """Data type of weights and activations."""
    max_model_len: int = Field(default=8192, ge=16)
    """Upper bound on the tokens of a prompt and its chain together."""
    max_completion_tokens: int = Field(default=4096, ge=1)
    """Upper bound on the tokens of a chain. A longer chain has no final answer."""
    system_prompt: str = ""
    """First turn of the reasoner's prompt; empty for none."""
    instruction: str = (
        "An image is described like this:\n{caption}\n\nAnswer this question about it:\n{question}\n\n"
        "Reason step by step from the description, as if you saw the image yourself. Put your final answer within \\boxed{}."
    )
    """Template of the request: {caption} stands for the caption, {question} for the question and its choices."""
    temperature: float = Field(default=0.6, ge=0)
    """Sampling temperature of the chains. The model's authors advise 0.6."""

    @model_validator(mode="after")
    def _instruction_has_both_places(self) -> "ReasonerConfig":
        if missing := [place for place in ("{caption}", "{question}") if place not in self.instruction]:
            raise ValueError(f"instruction has no {missing[0]}: the reasoner would not receive it; put it in")
        return self
