"""Everything that touches weights: language model, transformer, KV cache, sampler."""
