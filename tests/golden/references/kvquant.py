"""Float64 references of KVQuant (arXiv 2401.18079), after docs/policies/kvquant.md, where its levels have one right
answer: on numbers that lie in as many clusters as there are levels.

    kvquant.py FOLDER      writes clusters-*.h5 and references-kvquant.golden.h5 there (layout: placements.py)
"""
import os
import sys

import h5py
import numpy as np

from kv_codecs import Under
from layers import GoldenTrace
from placements import store

# name: bits, prompt, length, d, share of outliers, KV heads, query heads. The bounds of a channel, quantiles of the
# prompt, lie well between two numbers, and the outliers of a value are a whole number of channels.
TRACES = {
    "clusters-2": dict(bits=2, prompt=58, length=64, d=16, outliers=0.125, kv=2, query=4),
    "clusters-3": dict(bits=3, prompt=73, length=77, d=32, outliers=0.0625, kv=1, query=2),
    "clusters-1": dict(bits=1, prompt=30, length=35, d=8, outliers=0.25, kv=3, query=3),
}


def clustered(draw, count, bits, outliers):
    """So many numbers in 2^bits narrow clusters from -1 to 1, in random order, and `outliers` far outside."""
    inside = count - outliers
    centres = np.linspace(-1, 1, 2 ** bits)
    sizes = [inside * (i + 1) // len(centres) - inside * i // len(centres) for i in range(len(centres))]
    width = 0.3 / len(centres)
    numbers = [centre + width * (np.arange(size) / (size - 1) - 0.5) for centre, size in zip(centres, sizes)]
    far = 6 * np.where(np.arange(outliers) % 2, 1, -1) * (1 + 0.1 * np.arange(outliers))
    return draw.permutation(np.concatenate(numbers + [far]))


def write_trace(path, shape, seed):
    draw, bits, d, length = np.random.RandomState(seed), shape["bits"], shape["d"], shape["length"]
    inv_freq = 100.0 ** (-np.arange(0, d, 2) / d)
    angle = np.arange(length)[:, None, None] * inv_freq
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file.attrs.update(format="evictsim-trace", format_version=1, model="clusters of numbers", engine="numpy",
                          engine_version="1", created="2026-11-23T00:00:00Z", num_layers=2,
                          num_query_heads=shape["query"], num_kv_heads=shape["kv"], head_dim=d, hidden_size=12,
                          vocab_size=50, attention_scale=d ** -0.5, logit_softcap=0.0, rope_theta=100.0,
                          rope_attention_scaling=1.0, rope_layout="half")
        file["model/layers"], file["model/inv_freq"] = np.asarray([0, 1], np.int32), inv_freq
        sequence = file.create_group("sequences/000000")
        sequence.attrs.update(prompt_length=shape["prompt"], length=length)
        sequence["token_ids"], sequence["positions"] = (np.arange(length, dtype=np.int32) % 50,
                                                        np.arange(length, dtype=np.int32))
        for layer in (0, 1):
            keys, values = np.empty((2, length, shape["kv"], d))
            for head in range(shape["kv"]):
                for channel in range(d):  # a channel of the prompt's keys, and of the rows behind
                    centre, size = draw.uniform(-0.4, 0.4), draw.uniform(0.5, 1.5) * draw.choice([-1, 1])
                    numbers = [clustered(draw, rows, bits, 0) for rows in
                               (shape["prompt"], 2 ** (bits + 1) * (length - shape["prompt"]))]
                    keys[:, head, channel] = centre + size * np.concatenate(numbers)[:length]
                for row in range(length):
                    numbers = clustered(draw, d, bits, int(d * shape["outliers"]))
                    values[row, head] = draw.uniform(-0.4, 0.4) + draw.uniform(0.5, 1.5) * numbers
            a, b = keys[..., : d // 2], keys[..., d // 2:]
            rotated = np.concatenate([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], -1)
            group = sequence.create_group(f"layer_{layer:03}")
            group["k"], group["v"] = rotated.astype(np.float32), values.astype(np.float32)
            group["q"] = draw.normal(size=(length, shape["query"], d)).astype(np.float32)
            file[f"model/layer_{layer:03}/w_o"] = draw.normal(size=(12, shape["query"] * d)).astype(np.float32)


def half(x):
    return np.asarray(x).astype(np.float16).astype(np.float64)


def cluster_means(numbers, count):
    """Levels of least squared error for numbers in well separated clusters."""
    numbers = np.sort(numbers)
    gaps = np.diff(numbers)
    cuts = np.sort(np.argsort(gaps)[len(gaps) - count + 1:])
    clusters = np.split(numbers, cuts + 1)
    assert gaps[cuts].min() > 2 * max(map(np.ptp, clusters))
    return half([cluster.mean() for cluster in clusters])


def nearest(scaled, levels):
    return levels[np.abs(scaled[..., None] - levels).argmin(axis=-1)]


class KVQuant(Under):
    def __init__(self, layer, budget, bits, outliers, exact_first=1, **under):
        self.bits, self.share, self.exact_first = bits, outliers, exact_first
        super().__init__(layer, budget, **under)

    def begin(self, evicted, seen):
        trace, k, v = self.trace, self.layer.k, self.layer.v
        keys, levels = trace.rotate(k, -np.arange(trace.length)), 2 ** self.bits
        low, high = np.quantile(keys[:, :seen], [self.share / 2, 1 - self.share / 2], axis=1)[:, :, None]
        scaled = 2 * (keys - low) / (high - low) - 1
        assert np.abs(np.abs(scaled[:, :seen]) - 1).min() > 1e-3  # nothing on a bound, whatever the rounding
        self.key_outliers = np.abs(scaled) > 1
        code = nearest(scaled, cluster_means(scaled[:, :seen][~self.key_outliers[:, :seen]], levels))
        low, high = half(low), half(high)
        decoded = np.where(self.key_outliers, half(keys), (low + high) / 2 + (high - low) / 2 * code)
        self.coded_k = trace.rotate(decoded, np.arange(trace.length))

        number = int(self.width * self.share)
        distance = np.abs(v - np.median(v, axis=2, keepdims=True))
        self.value_outliers = np.zeros(v.shape, dtype=bool)
        np.put_along_axis(self.value_outliers, np.argsort(-distance, axis=2)[..., :number], True, axis=2)
        low = np.where(self.value_outliers, np.inf, v).min(axis=2, keepdims=True)
        high = np.where(self.value_outliers, -np.inf, v).max(axis=2, keepdims=True)
        scaled = 2 * (v - low) / (high - low) - 1
        code = nearest(scaled, cluster_means(scaled[:, :seen][~self.value_outliers[:, :seen]], levels))
        low, high = half(low), half(high)
        self.coded_v = np.where(self.value_outliers, half(v), (low + high) / 2 + (high - low) / 2 * code)

        self.stored[0] = sum(map(len, self.resident)) * self.entry
        self.stored[0] += self.kv_heads * self.width * 4 + 2 * levels * 2  # bounds of channels, levels
        self.stored[0] += self.code(evicted)

    def code(self, evicted):
        """Codes entries by KV head; answers with the bytes."""
        total = 0
        for head, entries in enumerate(evicted):
            total += (entries < self.exact_first).sum() * self.entry
            entries = entries[entries >= self.exact_first]
            self.new_k[head, entries], self.new_v[head, entries] = (self.coded_k[head, entries],
                                                                   self.coded_v[head, entries])
            outliers = self.key_outliers[head, entries].sum() + self.value_outliers[head, entries].sum()
            codes = -(-self.width * self.bits // 8)
            total += len(entries) * (2 * (codes + 2) + 4) + 4 * outliers
        return total

    def cut(self, evicted, seen):
        self.count(written_hbm=self.code(evicted))

    def attended(self, kv_head, row):
        return np.arange(row + 1)


# trace, parameters, budgets
RUNS = [
    ("clusters-2", dict(under="window"), "16 0.1"),
    ("clusters-2", dict(under="knorm", exact_first=5), "0.3"),
    ("clusters-3", dict(under="window", exact_first=0), "20"),
    ("clusters-1", dict(under="window"), "0.2"),
    ("clusters-1", dict(under="knorm", exact_first=2), "5"),
]


def main(folder):
    traces = {}
    for number, (name, shape) in enumerate(TRACES.items()):
        write_trace(os.path.join(folder, name + ".h5"), shape, 400 + number)
        traces[name] = GoldenTrace(name, folder)
    with h5py.File(os.path.join(folder, "references-kvquant.golden.h5"), "w", libver=("v110", "v110")) as file:
        for number, (name, parameters, budgets) in enumerate(RUNS):
            own = parameters | {key: TRACES[name][key] for key in ("bits", "outliers")}
            shown = ",".join(f"{key}={value}" for key, value in own.items() if key != "under")
            for budget in budgets.split():
                store(file, f"kvquant-{number}-{name}-{budget}",
                      lambda layer, entries: KVQuant(layer, entries, **own), traces[name],
                      f"{parameters['under']}@kvquant({shown})", budget, traces[name].whole.layers)


if __name__ == "__main__":
    main(sys.argv[1])
