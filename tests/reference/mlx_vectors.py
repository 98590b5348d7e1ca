"""Makes quant/tests/vectors/mlx.safetensors: results of mlx.core.quantize and dequantize on the CPU.

    pip install -r requirements-mlx.txt
    python mlx_vectors.py            # write the file
    python mlx_vectors.py --check    # recompute and compare with the file

Tensors, with FLOAT one of F32, F16, BF16 and FORMAT one of affine.BITS.GROUP, mxfp4, mxfp8, nvfp4, nvfp4.global:

    weights.FLOAT           [rows, 128], the input
    FORMAT.FLOAT.codes      u8, packed words of all rows
    FORMAT.FLOAT.scales     FLOAT or u8
    FORMAT.FLOAT.biases     FLOAT, affine only
    FORMAT.FLOAT.decoded    [rows, 128], dequantize(..., dtype=FLOAT); F32 with a global scale
    global.FLOAT            f32 [1], the global scale of nvfp4.global
"""

import argparse
import pathlib

import mlx.core as mx
import numpy as np

COLUMNS = 128
FLOATS = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}
FORMATS = [("affine", bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
FORMATS += [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]
FILE = pathlib.Path(__file__).parents[2] / "quant/tests/vectors/mlx.safetensors"


def rows(largest):
    """Weights for the edge cases of the algorithm. `largest` is near the maximum of the type."""
    random = np.random.default_rng(20)
    normal = lambda: random.standard_normal(COLUMNS)
    parts = lambda *values: np.concatenate([np.broadcast_to(value, 32) for value in values])
    sign = np.where(np.arange(32) % 2 == 0, 1.0, -1.0)
    halves = (np.arange(COLUMNS) % 31) / 2.0
    return np.stack([
        normal() * 0.02,
        normal() * 0.02 - 0.03,  # the negative edge is the larger one
        np.abs(normal()) + 0.01,  # no negative weight
        parts(0.0, -0.0, 0.0 * sign, 1e-30 * sign),  # zeros of both signs
        parts(0.3, -0.3, 1.0, 5e-8),  # constant groups
        parts(1e-6, 3e-7, 1.2e-7, 1e-20) * normal(),  # around the smallest scale; subnormal in F16
        np.clip(normal() / 3.0, -1.0, 1.0) * largest,
        normal() * 0.01 + np.where(np.arange(COLUMNS) % 32 == 5, 9.0, 0.0),  # one outlier per group
        -halves,  # exact ties: a step of 1 at 4 bits, weights at its halves
        (halves - 7.5) * 2.0,
        # Midpoints of E2M1 codes and, at 448, of E4M3 codes.
        np.concatenate([
            np.tile([6.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], 4) * sign,
            np.tile([6.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], 4) * -sign * 2.0**-9,
            np.tile([448.0, 432.0, 416.0, 27.0, 0.53125, 0.0009765625, 0.0029296875, 0.015625], 4) * sign,
            np.tile([448.0, 240.0, 232.0, 29.0, 0.59375, 0.0048828125, 0.0146484375, 0.0], 4) * -sign,
        ]),
        normal() * (random.random(COLUMNS) < 0.1),
        normal() ** 3 * np.exp2(random.integers(-6, 6, COLUMNS)),
        np.tile(np.linspace(-1.0, 1.0, 32), 4),  # both edges equally large
        1.0 + normal() * 1e-3,  # the edge is a large code
    ])


def octets(array):
    """The bytes of an array, as u8."""
    return mx.view(mx.contiguous(array), mx.uint8).reshape(-1)


def make():
    tensors = {}
    for name, dtype in FLOATS.items():
        largest = 60000.0 if name == "F16" else 1e38
        weights = mx.array(rows(largest).astype(np.float32)).astype(dtype)
        tensors[f"weights.{name}"] = weights
        # Without the row of huge weights: all others would vanish next to it.
        scale = mx.array(9.5, dtype=mx.float32)
        tensors[f"global.{name}"] = scale.reshape(1)
        for mode, bits, group in FORMATS:
            label = f"affine.{bits}.{group}" if mode == "affine" else mode
            for label, extra in [(label, {})] + [("nvfp4.global", {"global_scale": scale})] * (mode == "nvfp4"):
                codes, scales, *biases = mx.quantize(weights, group_size=group, bits=bits, mode=mode, **extra)
                decoded = mx.dequantize(
                    codes, scales, *biases, group_size=group, bits=bits, mode=mode, dtype=dtype, **extra
                )
                tensors[f"{label}.{name}.codes"] = octets(codes)
                tensors[f"{label}.{name}.scales"] = scales
                if biases:
                    tensors[f"{label}.{name}.biases"] = biases[0]
                tensors[f"{label}.{name}.decoded"] = decoded
    mx.eval(tensors)
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    mx.set_default_device(mx.cpu)
    tensors = make()
    if arguments.check:
        found = mx.load(str(FILE))
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            same = mx.array_equal(octets(found[name]), octets(tensor)).item()
            assert same and found[name].dtype == tensor.dtype, name
        print(f"{len(tensors)} tensors are the same")
    else:
        FILE.parent.mkdir(parents=True, exist_ok=True)
        mx.save_safetensors(str(FILE), tensors, metadata={"mlx": mx.__version__})
        print(f"{FILE}: {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
