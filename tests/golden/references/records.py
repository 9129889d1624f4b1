"""Float64 references of InfiniteKV-like records, after docs/policies/infinitekv.md.

    records.py FILE        writes the groups of RUNS to FILE (layout: placements.py)

Random axes have no single right answer: groups of the codec `rotation` hold the bytes, which do not depend on them, and
`distortion` [2], the squared error of keys and values that random axes have in the mean, as a share of their square.
"""
import sys

import h5py
import numpy as np

from layers import GoldenTrace
from placements import store
from retrieval import InfiniteKV


def normal_step(bits):
    """Distance of 2^bits evenly spaced levels around 0 that lose least of a standard normal variable."""
    x = np.linspace(-8, 8, 160001)
    density = np.exp(-x * x / 2) / np.sqrt(2 * np.pi) * (x[1] - x[0])

    def loss(step):
        return (density * (x - on_levels(x, bits, step)) ** 2).sum()

    low, high = 0.01, 4.0
    while high - low > 1e-9:  # it has one minimum
        a, b = low + (high - low) * 0.382, low + (high - low) * 0.618
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return round(low, 4)  # as tables have it: Max, Quantizing for minimum distortion, 1960


def on_levels(x, bits, step):
    most = 2 ** (bits - 1)
    return (np.clip(np.floor(x / step), -most, most - 1) + 0.5) * step


def low_rank(rows, prompt, code_bytes):
    """Decoded rows, and the bytes of the axes and their spreads. Directions (rows of norm 1) along the principal axes of the prompt's, as many as fit with 4 bits; with more where
    they all do. Levels are those of a normal variable as wide as the component is over the prompt."""
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    bits = min(8, max(4, code_bytes * 8 // rows.shape[1]))
    axes = np.linalg.svd((rows / norm)[:prompt], full_matrices=False)[2][: code_bytes * 8 // bits]
    components = rows / norm @ axes.T
    spread = np.sqrt((components[:prompt] ** 2).mean(axis=0))
    decoded = on_levels(components / spread, bits, normal_step(bits)) * spread @ axes * norm
    return decoded, 4 * (axes.size + len(axes))


def code_bytes_of(record_bytes, heads, value):
    """Of key and value, beside the two norms: halves for one head, else two thirds for the key."""
    if value == "exact":
        return record_bytes - 4, 0
    both = record_bytes - 8
    key = both // 2 if heads == 1 else both * 2 // 3
    return key, both - key


class LossyRecords(InfiniteKV):
    """Codec low_rank."""

    def __init__(self, layer, budget, record_bytes=104, **parameters):
        self.bytes = record_bytes
        super().__init__(layer, budget, **parameters)
        covered = self.kv_heads if self.scope == "per_layer" else 1
        key_bytes, value_bytes = code_bytes_of(record_bytes, covered, self.value)
        self.record_keys = self.coded(layer.k, covered, key_bytes)
        self.record_values = self.coded(layer.v, covered, value_bytes) if value_bytes else layer.v

    def record_bytes(self, covered):
        return self.bytes

    def coded(self, tensor, covered, code_bytes):
        """[Hkv, T, d]"""
        heads, rows, width = tensor.shape
        flat = tensor.reshape(heads // covered, covered, rows, width).transpose(0, 2, 1, 3)
        flat = flat.reshape(heads // covered, rows, covered * width)
        decoded, tables = zip(*[self.code(part, code_bytes) for part in flat])
        self.stored[0] += sum(tables)
        return np.stack(decoded).reshape(-1, rows, covered, width).transpose(0, 2, 1, 3).reshape(tensor.shape)

    def code(self, rows, code_bytes):
        return low_rank(rows, self.trace.prompt, code_bytes)

    def cold(self, row):
        return slice(self.sinks, max(self.sinks, row + 1 - self.hot_count))

    def own_keys(self, head, row):
        keys = self.layer.k[head // self.layer.group, : row + 1].copy()
        keys[self.cold(row)] = self.record_keys[head // self.layer.group, self.cold(row)]
        return keys

    def values(self, head, row):
        values = self.layer.v[head // self.layer.group, : row + 1].copy()
        values[self.cold(row)] = self.record_values[head // self.layer.group, self.cold(row)]
        return values

    def changed(self, row):
        if self.positions == "remapped":
            return None
        heads = [self.group(g)[0] for g in range(self.kv_heads)]
        return np.stack([self.keys(h, row) for h in heads]), np.stack([self.values(h, row) for h in heads])


def uniform_direction(width):
    """z = sqrt(width) times a component of a random direction, and its density."""
    z = np.linspace(-np.sqrt(width), np.sqrt(width), 200003)[1:-1]
    density = (1 - z * z / width) ** ((width - 3) / 2)
    return z, density / density.sum()


def rotated_distortion(width, code_bytes):
    """Along random axes: so many bits for every component, or as many signs as fit."""
    z, density = uniform_direction(width)
    bits = code_bytes * 8 // width
    if bits > 0:
        return (density * (z - on_levels(z, bits, normal_step(bits))) ** 2).sum()
    share = code_bytes * 8 / width
    sign = on_levels(z, 1, normal_step(1))
    return 1 - share + share * (density * (z - sign) ** 2).sum()


class Rotated(LossyRecords):
    """Codec rotation: what does not depend on the axes. Every query head recalls the same records."""

    def __init__(self, layer, budget, **parameters):
        super().__init__(layer, budget, **parameters)
        covered = self.kv_heads if self.scope == "per_layer" else 1
        width = covered * self.width
        codes = code_bytes_of(self.bytes, covered, self.value)
        self.distortion = [rotated_distortion(width, code) if code else 0 for code in codes]

    def code(self, rows, code_bytes):
        return rows, 8  # random axes need their seed


# parameters, traces, budgets
LOW_RANK = [
    (dict(hot=40, recall=30), "tiny-g1 tiny-g4", "70"),
    (dict(hot=30, recall=20, sinks=4, record_bytes=56), "tiny-g1 tiny-g2 smollm2", "80"),
    (dict(hot=40, recall=30, scope="per_kv_head", record_bytes=24, score="mean"), "tiny-g2 tiny-g4", "0.5"),
    (dict(hot=40, recall=25, scope="per_kv_head", record_bytes=40, score="per_head", tier="disk"), "tiny-g2", "70"),
    (dict(hot=40, recall=25, record_bytes=52, value="exact"), "tiny-g2", "70"),
    (dict(hot=30, recall=20, sinks=4, record_bytes=80, positions="remapped", cadence=2), "tiny-g4", "60"),
]
ROTATION = [
    (dict(hot=40, recall=30), "tiny-g1 tiny-g4 smollm2", "70"),
    (dict(hot=30, recall=20, record_bytes=20), "tiny-g2", "70"),
    (dict(hot=40, recall=30, scope="per_kv_head", record_bytes=32), "tiny-g2 tiny-g4", "70"),
    (dict(hot=40, recall=30, scope="per_kv_head", record_bytes=16), "tiny-g1", "70"),
    (dict(hot=40, recall=30, record_bytes=36, value="exact"), "tiny-g2", "70"),
]


def text(codec, parameters):
    return f"infinitekv(codec={codec},{','.join(f'{key}={value}' for key, value in parameters.items())})"


def main(path):
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        for codec, system, runs in (("low_rank", LossyRecords, LOW_RANK), ("rotation", Rotated, ROTATION)):
            for number, (parameters, traces, budgets) in enumerate(runs):
                for trace in map(GoldenTrace, traces.split()):
                    layers = trace.whole.layers[1:2] if trace.name == "smollm2" else trace.whole.layers[::2]
                    for budget in budgets.split():
                        name = f"infinitekv-{codec}-{number}-{trace.name}-{budget}"
                        store(file, name, lambda layer, entries: system(layer, entries, **parameters), trace,
                              text(codec, parameters), budget, layers)
                        if codec == "rotation":
                            for key in ("attended", "retained_mass", "output_error", "layer_error", "keys", "values"):
                                del file[f"{name}/{key}"]
                            file[f"{name}/distortion"] = system(trace.layers[0], trace.entries(budget),
                                                                **parameters).distortion


if __name__ == "__main__":
    main(sys.argv[1])
