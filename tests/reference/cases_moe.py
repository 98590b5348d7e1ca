"""Mixture-of-experts attention families: mixtral, qwen3_moe, olmoe."""

CASES = []
