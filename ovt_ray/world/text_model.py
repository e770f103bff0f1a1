"""The language model of a tiny Qwen2.5-VL as a text-only Llama, in an ordinary Hugging Face folder.

It is no Qwen2, because transformers 5.19 gives every Qwen2 that family's own tokenizer, which splits this world's words differently.
"""

from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, Qwen2_5_VLForConditionalGeneration

from ovt_ray.world.tokenizer import CHAT_TEMPLATE, build_tokenizer

REASONER_TEMPLATE = CHAT_TEMPLATE.replace("<|im_start|>assistant{%- endif -%}", "<|im_start|>assistant<think>{%- endif -%}")
"""Template that opens the thinking, like the templates of R1's kind. A response begins within the thinking."""


def write_text_model(vision_language_model: Path, path: Path) -> None:
    """Write the language model of a tiny Qwen2.5-VL to `path`, with its tokenizer and no processor.

    It gives any text the same logits as the whole model: for text all three axes of M-RoPE are equal, which is plain RoPE.
    """
    whole = Qwen2_5_VLForConditionalGeneration.from_pretrained(vision_language_model)
    text = whole.config.text_config
    config = LlamaConfig(
        vocab_size=text.vocab_size,
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_hidden_layers=text.num_hidden_layers,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=text.num_key_value_heads,
        max_position_embeddings=text.max_position_embeddings,
        rms_norm_eps=text.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": text.rope_parameters["rope_theta"]},
        attention_bias=True,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    no_bias = torch.zeros(text.hidden_size)  # with biases, Llama's attention has one on its output too
    output_biases = {f"layers.{number}.self_attn.o_proj.bias": no_bias for number in range(text.num_hidden_layers)}
    model.model.load_state_dict(whole.model.language_model.state_dict() | output_biases)
    model.generation_config = GenerationConfig(eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id, do_sample=False)
    model.save_pretrained(path)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = REASONER_TEMPLATE
    tokenizer.save_pretrained(path)
