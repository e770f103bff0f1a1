"""A tiny Qwen2.5-VL's language model on its own: a text-only Qwen2, as an ordinary Hugging Face folder."""

from pathlib import Path

from transformers import GenerationConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Config, Qwen2ForCausalLM

from ovt_ray.world.tokenizer import CHAT_TEMPLATE, build_tokenizer

REASONER_TEMPLATE = CHAT_TEMPLATE.replace("<|im_start|>assistant{%- endif -%}", "<|im_start|>assistant<think>{%- endif -%}")
"""As templates of R1's kind do, it opens the thinking, so that a response begins within it."""


def write_text_model(vision_language_model: Path, path: Path) -> None:
    """Write the language model of a tiny Qwen2.5-VL to `path`, with its tokenizer and no processor.

    It gives any text the logits that the whole model gives it: for text all three axes of M-RoPE are equal, which is plain RoPE.
    """
    whole = Qwen2_5_VLForConditionalGeneration.from_pretrained(vision_language_model)
    text = whole.config.text_config
    config = Qwen2Config(
        vocab_size=text.vocab_size,
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_hidden_layers=text.num_hidden_layers,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads,
        max_position_embeddings=text.max_position_embeddings,
        rms_norm_eps=text.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": text.rope_parameters["rope_theta"]},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.model.load_state_dict(whole.model.language_model.state_dict())
    model.generation_config = GenerationConfig(eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id, do_sample=False)
    model.save_pretrained(path)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = REASONER_TEMPLATE
    tokenizer.save_pretrained(path)
