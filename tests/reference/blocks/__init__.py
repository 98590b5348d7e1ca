"""The models of `model_type` `kinglet_hybrid` in plain PyTorch: what tests/fixtures/kinglet_hybrid/ is computed with.

Written to be read beside the equations: a part of a layer is one file, a dataclass with the fields of config.json and their
defaults, `shapes` with every tensor, and `forward`, which computes what the equation says for each position from all positions
before it. Nothing is cached, chunked or fused. All of it runs in the dtype of the weights, float32 or float64.

`model.Model` is the whole language model.
"""
