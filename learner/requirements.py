"""The learner's requirements of a model, checked on its configuration before any weight is loaded."""

import inspect
from collections.abc import Iterator
from typing import Any

from ovt_ray.core.config.run import Layout
from ovt_ray.core.errors import ConfigError

PREFIX_MODELS = ("paligemma",)
"""Families whose prompt is no causal text: each of its tokens sees all of them."""
SCALES_OF_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale")


def check_model(path: str, layout: Layout) -> None:
    """Return if the learner computes the same as the model of a Hugging Face folder or hub name.

    Raises ConfigError that names the model, the ability that the learner lacks, and the way out.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"model.path: no configuration can be loaded from {path!r} ({reason}); give a model folder or hub name"
        ) from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ConfigError(f"model.path: {path!r} is a {config.model_type!r}, no image-text-to-text model of transformers; give one that is")
    text = config.get_text_config()
    for reason in _unlike_in_any_layout(config, text):
        raise ConfigError(f"model.path: the learner cannot train {path!r} ({config.model_type}): {reason}")
    takes_token_types = "token_type_ids" in inspect.signature(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)].forward).parameters
    for reason in _unlike_in_packs(text, takes_token_types) if layout != "padded" else ():
        raise ConfigError(
            f"learner.layout: {layout!r} needs a language model in which a token attends to all before it and to nothing else; that of "
            f"{path!r} ({config.model_type}) {reason}: set learner.layout=padded"
        )


def _unlike_in_any_layout(config: Any, text: Any) -> Iterator[str]:
    """Yield each property that the learner's head or its repeated passes would not reproduce."""
    if config.model_type in PREFIX_MODELS:
        yield "its prompt attends to itself in both directions, which the learner has no layout for; use another model"
    for name in SCALES_OF_LOGITS:
        if _value(text, name) not in (None, 1):
            yield f"its config.json has {name} {_value(text, name)}, which the learner's head does not apply to logits; use another model"
    if _value(text, "attn_logit_softcapping"):
        yield "its attention scores are capped (attn_logit_softcapping), which torch's attention does not do; use another model"
    if _value(text, "cross_attention_layers"):
        yield "it attends to images across, not among its tokens (cross_attention_layers); use another model"
    if _value(text, "attention_dropout"):
        yield f"its attention_dropout is {text.attention_dropout}, so no two passes agree; set it to 0 in text_config of its config.json"


def _unlike_in_packs(text: Any, takes_token_types: bool) -> Iterator[str]:
    """Yield each difference between the language model's attention and a causal one over all tokens before."""
    kinds = set(_value(text, "layer_types") or ())
    if others := sorted(kinds - {"full_attention"}):
        yield f"has layers of {', '.join(others)}"
    if not kinds and _value(text, "sliding_window"):
        yield f"attends to a window of {text.sliding_window} tokens (sliding_window)"
    if takes_token_types or _value(text, "use_bidirectional_attention"):
        yield "lets the tokens of an image attend to one another"


def _value(config: Any, name: str) -> Any:
    """Return a value of a family's configuration, None where the family has none of that name."""
    return getattr(config, name, None)
