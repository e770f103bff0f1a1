"""The baseline of `benchmarks.step`: `vllm.LLM.generate` on the prompts of a JSON job on standard input; prints tokens per second."""

import json
import sys
import time
from statistics import median

from PIL import Image

NUM_ROUNDS = 6


def main() -> None:
    """Time rounds of the same prompts and print the median rate of all but the first."""
    from vllm import LLM, SamplingParams

    job = json.load(sys.stdin)
    llm = LLM(
        model=job["model"],
        dtype="float32",
        enforce_eager=True,
        enable_chunked_prefill=False,
        max_num_batched_tokens=8192,
        max_model_len=job["max_model_len"],
        max_num_seqs=job["max_num_seqs"],
        kv_cache_memory_bytes=job["kv_cache_bytes"],
        limit_mm_per_prompt={"image": 8, "video": 0},
    )
    prompts = [{"prompt_token_ids": ids, "multi_modal_data": {"image": Image.open(image).convert("RGB")}} for ids, image in job["prompts"]]
    rates = []
    for turn in range(NUM_ROUNDS + 1):
        params = [
            SamplingParams(n=job["n"], max_tokens=job["max_tokens"], temperature=1.0, logprobs=0, seed=seed + turn) for seed in job["seeds"]
        ]
        began = time.monotonic()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        num_tokens = sum(len(choice.token_ids) for output in outputs for choice in output.outputs)
        rates.append(num_tokens / (time.monotonic() - began))
        llm.reset_prefix_cache()
        llm.reset_mm_cache()
    print(median(rates[1:]))


if __name__ == "__main__":
    main()
