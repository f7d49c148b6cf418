"""Everything that touches weights: the language model, its transformer, the KV cache and the
sampler."""
