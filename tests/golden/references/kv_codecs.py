"""Float64 references of codes in place and of merging, from the papers and docs/policies/.

    kv_codecs.py FILE      adds the groups of RUNS to FILE (layout: placements.py)

CaM draws and KVQuant's levels have no single right answer (kvquant.py has numbers where they do). Their groups hold what is determined: CaM's probabilities
(`evicted`, `probability`, `followers` by row and KV head), KVQuant's bounds and the least error that any levels have.
"""
import sys

import h5py
import numpy as np

from layers import GoldenTrace, largest
from placements import WIDTH, System, store
from trace import softmax


class Under(System):
    """Around `window` (the newest B stay, cut after every row) or `knorm` (B smallest key norms of the prompt, cut
    once) or nothing."""

    def __init__(self, layer, budget, under=None):
        super().__init__(layer, budget)
        prompt = self.trace.prompt
        self.hot = {"window": "newest", "knorm": "kept", None: "all"}[under]
        everything = np.arange(prompt)
        kept = [everything[prompt - budget:] if self.hot == "newest" else
                largest(-np.linalg.norm(layer.k[g, :prompt], axis=1), budget) if self.hot == "kept" else everything
                for g in range(self.kv_heads)]
        if self.hot == "kept":
            self.kept = kept
        self.resident = kept  # [KV head], with the row that attends
        self.new_k, self.new_v = layer.k.copy(), layer.v.copy()  # as attended
        self.begin([np.setdiff1d(everything, entries) for entries in kept], prompt)

    def begin(self, evicted, seen):
        """The prompt's cut: `evicted` by KV head, when `seen` rows have come."""
        self.cut(evicted, seen)

    def cut(self, evicted, seen):
        pass

    def sets(self, row):
        if row > self.trace.prompt and self.hot == "newest":  # the cut that followed the row before
            self.resident = [entries[1:] for entries in self.resident]
            self.cut([np.array([row - 1 - self.budget])] * self.kv_heads, row)
        self.resident = [np.append(entries, row) for entries in self.resident]
        sets = [self.attended(h // self.layer.group, row) for h in range(self.heads)]
        self.count_attended(sets)
        return sets

    def attended(self, kv_head, row):
        return self.resident[kv_head]

    def keys(self, head, row):
        return self.new_k[head // self.layer.group, : row + 1]

    def values(self, head, row):
        return self.new_v[head // self.layer.group, : row + 1]

    def changed(self, row):
        return self.new_k[:, : row + 1], self.new_v[:, : row + 1]


def quantised(x, bits, axis):
    """Codes with the least as zero, zero and scale in float16, decoded again."""
    least, most = x.min(axis=axis, keepdims=True), x.max(axis=axis, keepdims=True)
    zero = least.astype(np.float16).astype(np.float64)
    scale = ((most - least) / (2**bits - 1)).astype(np.float16).astype(np.float64)
    code = np.clip(np.rint((x - zero) / np.where(scale > 0, scale, 1)), 0, 2**bits - 1)
    return zero + scale * code


class Kivi(Under):
    def __init__(self, layer, budget, bits=2, group=32, residual=0, **under):
        self.bits, self.size, self.residual = bits, group, residual
        super().__init__(layer, budget, **under)

    def begin(self, evicted, seen):
        self.cold = [np.array([], dtype=int)] * self.kv_heads
        self.waiting = evicted  # cut, but perhaps among the newest `residual`
        codes = self.code(seen)
        waiting = sum(map(len, self.waiting)) * self.entry
        ungrouped = sum(len(cold) % self.size for cold in self.cold) * self.width * WIDTH
        self.stored[0] = sum(map(len, self.resident)) * self.entry + codes + waiting + ungrouped

    def cut(self, evicted, seen):
        self.waiting = [np.concatenate(both) for both in zip(self.waiting, evicted)]

    def sets(self, row):
        sets = super().sets(row)
        self.count(written_hbm=self.code(row + 1))
        return sets

    def bytes_of(self, numbers):
        """Codes in whole bytes, zero and scale."""
        return -(-numbers * self.bits // 8) + 4

    def code(self, seen):
        """Codes what is due when `seen` rows have come; answers with the bytes of the codes."""
        written = 0
        for head, entries in enumerate(self.waiting):
            coded = entries[entries < seen - self.residual]
            self.waiting[head] = entries[entries >= seen - self.residual]
            first = len(self.cold[head]) // self.size * self.size
            cold = self.cold[head] = np.append(self.cold[head], coded)
            for start in range(first, len(cold) - self.size + 1, self.size):
                chosen = cold[start:start + self.size]
                self.new_k[head, chosen] = quantised(self.layer.k[head, chosen], self.bits, 0)
                written += self.width * self.bytes_of(self.size)
            for channel in range(0, self.width, self.size):
                part = slice(channel, min(channel + self.size, self.width))
                if len(coded):
                    self.new_v[head, coded, part] = quantised(self.layer.v[head, coded, part], self.bits, 1)
                    written += len(coded) * self.bytes_of(part.stop - part.start)
        return written

    def attended(self, kv_head, row):
        return np.arange(row + 1)


class ThinK(Under):
    def __init__(self, layer, budget, ratio=0.5, window=32, **under):
        self.ratio, self.window = ratio, window
        super().__init__(layer, budget, **under)

    def begin(self, evicted, seen):
        queries = self.layer.q[:, seen - self.window:seen]
        for head, entries in enumerate(self.resident):
            weight = (queries[list(self.group(head))] ** 2).mean(axis=(0, 1))
            weight *= (self.layer.k[head, entries] ** 2).mean(axis=0)
            dropped = largest(-weight, int(self.width * self.ratio))
            self.new_k[head][np.ix_(entries, dropped)] = 0
            self.stored[0] += len(entries) * (self.entry - len(dropped) * WIDTH)
            self.stored[0] += -(-self.width // 8)  # a bit per channel says which


def cosines(a, b):
    return a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)


class Merging(Under):
    def __init__(self, layer, budget, similarity_threshold=0, merge_fraction=1, **under):
        self.threshold, self.fraction = similarity_threshold, merge_fraction
        super().__init__(layer, budget, **under)
        self.stored[0] = sum(map(len, self.resident)) * self.entry if self.hot == "kept" else (
            self.kv_heads * budget * self.entry)

    def cut(self, evicted, seen):
        for head, entries in enumerate(evicted):
            kept = self.resident[head]
            each = cosines(self.layer.k[head, entries], self.layer.k[head, kept])
            target, similarity = each.argmax(axis=1), each.max(axis=1)
            merges = (similarity >= self.threshold) & (similarity >= np.quantile(similarity, 1 - self.fraction))
            values = self.new_v[head].copy()
            size = np.linalg.norm(values, axis=1)
            for place in np.unique(target[merges]):
                t = kept[place]
                e = entries[merges & (target == place)]
                c = similarity[merges & (target == place)]
                weight = np.maximum(c, 0) * size[e] / (size[e] + size[t] + 1e-6)
                self.new_v[head, t] = (values[t] + weight @ values[e]) / (1 + weight.sum())


class KVMerge(Under):
    def __init__(self, layer, budget, similarity_threshold=0.75, **under):
        self.threshold = similarity_threshold
        super().__init__(layer, budget, **under)
        self.stored[0] = self.kv_heads * budget * self.entry

    def cut(self, evicted, seen):
        for head, entries in enumerate(evicted):
            kept = self.resident[head]
            keys, values = self.new_k[head].copy(), self.new_v[head].copy()
            joins = {}
            for e in entries:
                behind = np.searchsorted(kept, e)
                beside = [kept[i] for i in (behind - 1, behind) if 0 <= i < len(kept)]
                c = cosines(keys[[e]], keys[beside])[0]
                if c.max() >= self.threshold:
                    joins.setdefault(beside[c.argmax()], []).append(e)
            for p, members in joins.items():
                far = np.linalg.norm(keys[members] - keys[p], axis=1)
                sigma = far.mean() / np.sqrt(2)
                g = np.exp(-far**2 / (2 * sigma**2))
                self.new_k[head, p] = (keys[p] + g @ keys[members]) / (1 + g.sum())
                self.new_v[head, p] = (values[p] + g @ values[members]) / (1 + g.sum())


class Window(Under):
    """The hot entries of CaM, and the probabilities with which it merges."""

    def __init__(self, layer, budget, merge_budget=32):
        super().__init__(layer, budget, under="window")
        self.merge_budget = merge_budget
        self.received = np.zeros((self.kv_heads, self.trace.length))
        self.chances = []
        self.stored[0] = self.kv_heads * budget * self.entry

    def sets(self, row):
        sets = super().sets(row)
        chances = []
        for kv_head, entries in enumerate(self.resident):
            for head in self.group(kv_head):
                self.received[kv_head, entries] += softmax(self.layer.logits(head, row)[entries]) / self.layer.group
            followers = entries[1:1 + self.merge_budget]
            chances.append(min(1, self.received[kv_head, entries[0]] / self.received[kv_head, followers].mean()))
        self.chances.append(chances)
        return sets


def least_error(values, levels):
    """Mean squared error of the best `levels` levels for numbers on a line: dynamic programme over their histogram."""
    counts, edges = np.histogram(values, bins=512, range=(-1, 1))
    sums = np.histogram(values, bins=edges, weights=values)[0]
    squares = np.histogram(values, bins=edges, weights=values**2)[0]
    n, s, q = (np.concatenate([[0.0], np.cumsum(x)]) for x in (counts, sums, squares))
    i, j = np.meshgrid(np.arange(513), np.arange(513), indexing="ij")
    number = np.maximum(n[j] - n[i], 1)
    cost = np.where(j >= i, q[j] - q[i] - (s[j] - s[i]) ** 2 / number, np.inf)
    best = cost[0]
    for _ in range(levels - 1):
        best = (best[:, None] + cost).min(axis=0)
    return best[-1] / len(values)


class KVQuantBounds:
    """Keys before RoPE: bounds [Hkv, d, 2] of every channel, and the least error of 2^bits levels on the scaled numbers
    within them."""

    def __init__(self, layer, bits, outliers):
        trace = layer.trace
        keys = trace.rotate(layer.k, -np.arange(trace.length))[:, : trace.prompt]
        low, high = np.quantile(keys, [outliers / 2, 1 - outliers / 2], axis=1)
        self.bounds = np.stack([low, high], axis=-1)
        scaled = 2 * (keys - low[:, None]) / (high - low)[:, None] - 1
        inside = np.abs(scaled) <= 1
        self.outliers = (~inside).sum(axis=(0, 2))
        self.least_error = least_error(scaled[inside], 2**bits)


def store_cam(file, merge_budget, trace, budget):
    """[L, R, Hkv] probabilities; after row n + r every head evicts the oldest entry, n + r - B."""
    group = file.create_group(f"cam-{merge_budget}-{trace.name}")
    group.attrs.update(policy=f"window@cam(merge_budget={merge_budget})", budget=budget, trace=trace.name,
                       entries=trace.entries(budget), merge_budget=merge_budget)
    chances = []
    for layer in trace.layers:
        system = Window(layer, trace.entries(budget), merge_budget)
        for row in trace.rows:
            system.sets(row)
        chances.append(system.chances)
    group["probability"] = np.asarray(chances, dtype=np.float32)


def store_kvquant(file, bits, outliers, trace):
    group = file.create_group(f"kvquant-{bits}-{outliers}-{trace.name}")
    group.attrs.update(policy=f"window@kvquant(bits={bits},outliers={outliers})", budget="40", trace=trace.name,
                       entries=40, bits=bits, outliers=outliers)
    references = [KVQuantBounds(layer, bits, outliers) for layer in trace.layers]
    group["bounds"] = np.asarray([reference.bounds for reference in references], dtype=np.float32)
    group["outliers"] = np.asarray([reference.outliers for reference in references], dtype=np.int32)
    group["least_error"] = np.asarray([reference.least_error for reference in references])


SYSTEMS = {"kivi": Kivi, "think": ThinK, "merging": Merging, "kvmerge": KVMerge}

# system, its parameters, traces, budgets
RUNS = [
    ("kivi", dict(under="window"), "tiny-g1 tiny-g4", "0.1"),
    ("kivi", dict(under="window", bits=4, group=10), "tiny-g2 smollm2", "0.3"),
    ("kivi", dict(under="window", bits=3, group=7), "tiny-g4", "100"),
    ("kivi", dict(under="window", bits=2, group=16, residual=50), "tiny-g1", "20"),
    ("kivi", dict(under="knorm", bits=1, group=12), "tiny-g2 tiny-g4", "0.4"),
    ("kivi", dict(under="knorm", bits=8, group=64), "tiny-g1", "0.25"),
    ("think", {}, "tiny-g1 tiny-g4 smollm2", "0.5"),
    ("think", dict(ratio=0.3, window=20), "tiny-g2", "0.5"),
    ("think", dict(under="knorm", ratio=0.4, window=16), "tiny-g1 tiny-g2", "0.3"),
    ("merging", dict(under="knorm"), "tiny-g1 tiny-g4 smollm2", "0.3"),
    ("merging", dict(under="knorm", merge_fraction=0.6, similarity_threshold=0.2), "tiny-g2", "0.5 50"),
    ("merging", dict(under="window"), "tiny-g2", "0.2"),
    ("kvmerge", dict(under="knorm", similarity_threshold=0.2), "tiny-g1 tiny-g2 tiny-g4", "0.3"),
    ("kvmerge", dict(under="knorm"), "smollm2", "0.3"),
    ("kvmerge", dict(under="window", similarity_threshold=-1), "tiny-g2", "0.2"),
]
CAM = [(8, "tiny-g2", "40"), (32, "tiny-g4", "0.5"), (16, "smollm2", "60")]
KVQUANT = [(2, 0.02, "tiny-g2"), (3, 0.01, "tiny-g4"), (3, 0.1, "smollm2"), (1, 0.0, "tiny-g1")]


def main(path):
    with h5py.File(path, "a", libver=("v110", "v110")) as file:
        for number, (system, parameters, traces, budgets) in enumerate(RUNS):
            shown = ",".join(f"{key}={value}" for key, value in parameters.items() if key != "under")
            policy = (parameters["under"] + "@" if "under" in parameters else "") + f"{system}({shown})"
            for trace in map(GoldenTrace, traces.split()):
                for budget in budgets.split():
                    layers = trace.whole.layers[1:2] if trace.name == "smollm2" else trace.whole.layers[::2]
                    store(file, f"{system}-{number:02}-{trace.name}-{budget}",
                          lambda layer, entries: SYSTEMS[system](layer, entries, **parameters), trace, policy, budget,
                          layers)
        for merge_budget, name, budget in CAM:
            store_cam(file, merge_budget, GoldenTrace(name), budget)
        for bits, outliers, name in KVQUANT:
            store_kvquant(file, bits, outliers, GoldenTrace(name))


if __name__ == "__main__":
    main(sys.argv[1])
