"""Makes quant/tests/vectors/foreign.safetensors: small layers as in GPTQ, AWQ and FP8 checkpoints, and their decoded weights.

    pip install -r requirements-foreign.txt
    python foreign_vectors.py            # write the file
    python foreign_vectors.py --check    # recompute and compare with the file

Layers are packed code by code from the definition of each layout, not by transposing words.

Tensors of a layer NAME (its layout is the part before the first dot):

    NAME.shape      i32 [rows, cols, bits, group or block rows, block cols, version, scale type (0 F32, 1 F16, 2 BF16), exact]
    NAME.qweight, NAME.qzeros, NAME.scales, NAME.g_idx, NAME.codes    the bytes, as u8
    NAME.weights    f32 [rows, cols], the decoded weights
"""

import argparse
import pathlib

import numpy as np
from safetensors.numpy import load_file, save_file

FILE = pathlib.Path(__file__).parents[2] / "quant/tests/vectors/foreign.safetensors"
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def float_bytes(values, kind):
    """Rounds to a type; returns the bytes and the rounded values in f64."""
    values = values.astype(np.float32)
    if kind == 1:
        values = values.astype(np.float16)
        return values.tobytes(), values.astype(np.float64)
    if kind == 2:
        # Truncated, not rounded: any bf16 values will do.
        bits = values.view(np.uint32) >> 16
        return bits.astype(np.uint16).tobytes(), (bits << 16).view(np.float32).astype(np.float64)
    return values.tobytes(), values.astype(np.float64)


def stream(codes, bits):
    """Packs the codes of one row into the words of a bit stream."""
    words = np.zeros(len(codes) * bits // 32, np.uint32)
    for position in range(len(codes) * bits):
        if codes[position // bits] >> (position % bits) & 1:
            words[position // 32] |= np.uint32(1 << (position % 32))
    return words


def gptq(random, rows, cols, bits, group, kind, version, order="plain", zero=None):
    group = cols if group == -1 else group
    groups = -(-cols // group)
    q = random.integers(0, 2**bits, (cols, rows))
    zeros = random.integers(0, 2**bits, (groups, rows)) if zero is None else np.full((groups, rows), zero)
    scale_bytes, scales = float_bytes(random.uniform(0.001, 0.02, (groups, rows)), kind)
    g_idx = np.arange(cols) // group
    if order == "shuffled":
        g_idx = random.permutation(g_idx)
    if order == "runs":  # whole groups are permuted: still exact
        g_idx = random.permutation(groups)[g_idx]
    stored = zeros if version == 2 else (zeros - 1) % 2**bits
    exact = order != "shuffled" and kind != 0  # f32 times a code is rounded
    return {
        "shape": np.array([rows, cols, bits, group, 0, version, kind, exact], np.int32),
        "qweight": np.stack([stream(q[:, row], bits) for row in range(rows)], axis=1).astype("<u4"),
        "qzeros": np.stack([stream(line, bits) for line in stored]).astype("<u4"),
        "scales": scale_bytes,
        "weights": (scales[g_idx] * (q - zeros[g_idx])).T,
        **({} if order == "plain" else {"g_idx": g_idx.astype("<i4")}),
    }


def awq(random, rows, cols, group, kind):
    groups = -(-cols // group)
    q = random.integers(0, 16, (cols, rows))
    zeros = random.integers(0, 16, (groups, rows))
    scale_bytes, scales = float_bytes(random.uniform(0.001, 0.02, (groups, rows)), kind)

    def pack(codes):
        words = np.zeros((len(codes), rows // 8), np.uint32)
        for word in range(rows // 8):
            for nibble, output in enumerate(AWQ_ORDER):
                words[:, word] |= (codes[:, 8 * word + output] << (4 * nibble)).astype(np.uint32)
        return words.astype("<u4")

    g_idx = np.arange(cols) // group
    return {
        "shape": np.array([rows, cols, 4, group, 0, 0, kind, 1], np.int32),
        "qweight": pack(q),
        "qzeros": pack(zeros),
        "scales": scale_bytes,
        "weights": (scales[g_idx] * (q - zeros[g_idx])).T,
    }


def fp8(random, rows, cols, block, kind, powers, exact):
    codes = random.integers(0, 256, (rows, cols)).astype(np.uint8)
    codes[codes & 0x7F == 0x7F] = 0x7E
    exponent, mantissa = (codes >> 3 & 15).astype(np.int64), (codes & 7) / 8.0
    values = np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent - 7.0))
    values = np.where(codes & 0x80, -values, values)
    shape = (-(-rows // block[0]), -(-cols // block[1]))
    scales = np.exp2(random.integers(-12, -2, shape)) if powers else random.uniform(0.0005, 0.003, shape)
    scale_bytes, scales = float_bytes(scales, kind)
    spread = np.repeat(np.repeat(scales, block[0], axis=0), block[1], axis=1)[:rows, :cols]
    return {
        "shape": np.array([rows, cols, 8, *block, 0, kind, exact], np.int32),
        "codes": codes,
        "scales": scale_bytes,
        "weights": values * spread,
    }


def make():
    random = np.random.default_rng(4)
    layers = {
        "gptq.plain": gptq(random, 16, 128, 4, 32, 1, 1),
        "gptq.symmetric": gptq(random, 8, 128, 4, 64, 1, 1, zero=8),
        "gptq.v2": gptq(random, 8, 128, 4, 128, 2, 2),
        "gptq.column": gptq(random, 16, 96, 4, -1, 1, 1),
        "gptq.shuffled": gptq(random, 32, 128, 4, 32, 1, 1, "shuffled"),
        "gptq.runs": gptq(random, 24, 192, 4, 64, 1, 2, "runs"),
        "gptq.narrow": gptq(random, 16, 64, 4, 32, 0, 1, zero=8),
        "gptq.2bits": gptq(random, 16, 64, 2, 32, 1, 1),
        "gptq.3bits": gptq(random, 32, 64, 3, 32, 1, 1),
        "gptq.8bits": gptq(random, 20, 64, 8, 64, 1, 1),
        "awq.128": awq(random, 8, 256, 128, 1),
        "awq.32": awq(random, 24, 96, 32, 2),
        "fp8.tensor": fp8(random, 8, 64, (8, 64), 0, False, False),
        "fp8.rows": fp8(random, 8, 64, (1, 64), 2, False, False),
        "fp8.rows_powers": fp8(random, 8, 64, (1, 64), 2, True, True),
        "fp8.blocks": fp8(random, 40, 96, (32, 64), 0, False, False),
        "fp8.blocks_powers": fp8(random, 40, 96, (32, 64), 0, True, True),
        "fp8.blocks_128": fp8(random, 5, 160, (128, 128), 0, True, True),
    }
    tensors = {}
    for name, parts in layers.items():
        for part, value in parts.items():
            if part == "weights":
                value = np.ascontiguousarray(value).astype(np.float32)
            elif part != "shape":
                value = np.frombuffer(value if isinstance(value, bytes) else value.tobytes(), np.uint8)
            tensors[f"{name}.{part}"] = value
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    tensors = make()
    if parser.parse_args().check:
        found = load_file(FILE)
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype and np.array_equal(found[name], tensor), name
        print(f"{len(tensors)} tensors are the same")
    else:
        save_file(tensors, FILE)
        print(f"{FILE}: {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
