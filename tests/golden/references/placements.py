"""What every reference of a placement records per decode row, and how it is stored.

A system is an object with `sets(row)`: the entries that each query head attends, which it may follow by `keys` and
`values` of its own and by counts in `traffic`. Errors are those of docs/metrics.md.

    /<id>               attributes: policy (command-line text), budget, entries, trace, layers, hot (all, newest, kept)
    /<id>/attended      [L, R, Hq, ceil(T / 8)] uint8, bits, the first entry the highest: attended by the row
    /<id>/retained_mass [L, R, Hq]  softmax mass of the full cache over what is attended
    /<id>/output_error  [L, R, Hq]  |o' - o| / |o|
    /<id>/layer_error   [L, R]      |W_O (o' - o)| / |W_O o|
    /<id>/traffic       [L, R, 11]  see TRAFFIC
    /<id>/stored        [L, 3]      bytes at rest after the prompt's cut in HBM, on the host, on disk
    /<id>/kept          [L, Hkv, m] prompt entries hot after the prompt's cut, where hot = kept
    /<id>/keys, values  [L, Hkv, T] where they change: sum_c cos(c + 1) x_c of every row at the last decode row
"""
import numpy as np

from layers import relative
from trace import softmax

TRAFFIC = ("hits", "misses", "recalled_hbm", "recalled_host", "recalled_disk", "written_hbm", "written_host",
           "written_disk", "scanned_hbm", "scanned_host", "scanned_disk")
KINDS = dict(attended=np.uint8, retained_mass=np.float32, output_error=np.float32, layer_error=np.float32,
             traffic=np.int32, stored=np.int32, kept=np.int32, keys=np.float32, values=np.float32)
WIDTH = 4  # bytes of a stored component: the golden traces are float32


class System:
    """One placement in one layer. Everything is hot and exact unless a subclass says otherwise."""

    hot = "all"
    kept = None  # [KV head] prompt entries, where hot = "kept"

    def __init__(self, layer, budget):
        self.layer, self.trace, self.budget = layer, layer.trace, budget
        self.heads, self.kv_heads = len(layer.q), len(layer.k)
        self.width = layer.k.shape[-1]
        self.entry = 2 * self.width * WIDTH  # bytes of k and v of an entry of a KV head
        self.stored = np.zeros(3)
        self.counts = {}

    def count(self, **amounts):
        for name, amount in amounts.items():
            assert name in TRAFFIC
            self.counts[name] = self.counts.get(name, 0) + amount

    def count_attended(self, sets, missing=lambda kv_head, entries: []):
        """Distinct entries per KV head; `missing` picks those of them that had to be recalled."""
        for kv_head in range(self.kv_heads):
            entries = np.unique(np.concatenate([sets[h] for h in self.group(kv_head)]))
            misses = len(missing(kv_head, entries))
            self.count(hits=len(entries) - misses, misses=misses)

    def group(self, kv_head):
        return range(kv_head * self.layer.group, (kv_head + 1) * self.layer.group)

    def keys(self, head, row):
        """As attended by a query head, [row + 1, d]."""
        return self.layer.k[head // self.layer.group, : row + 1]

    def values(self, head, row):
        return self.layer.v[head // self.layer.group, : row + 1]

    def changed(self, row):
        """Keys and values [Hkv, row + 1, d] as attended at `row`, where the placement changes them."""
        return None


def evaluate(system, row, sets):
    """Retained mass and output error of every query head, and the layer error."""
    layer = system.layer
    mass, error, full, cut = [], [], [], []
    for head, entries in enumerate(sets):
        p = layer.attention(head, row)
        mass.append(p[entries].sum())
        full.append(p @ layer.v[head // layer.group, : row + 1])
        logits = layer.trace.scale * system.keys(head, row)[entries] @ layer.q[head, row]
        cut.append(softmax(logits) @ system.values(head, row)[entries])
        error.append(relative(cut[-1] - full[-1], full[-1]))
    whole = layer.w_o @ np.concatenate(full)
    return mass, error, relative(layer.w_o @ np.concatenate(cut) - whole, whole)


def digest(tensor):
    """[Hkv, rows, d] to [Hkv, rows]."""
    return tensor @ np.cos(np.arange(1, tensor.shape[-1] + 1))


def replay(system):
    """What the decode rows of a layer make of a system, by name of dataset."""
    trace, columns = system.trace, {}
    for row in trace.rows:
        system.counts = {}
        sets = [np.asarray(s, dtype=int) for s in system.sets(row)]
        bits = np.zeros((len(sets), trace.length), dtype=np.uint8)
        for head, entries in enumerate(sets):
            bits[head, entries] = 1
        mass, error, layer_error = evaluate(system, row, sets)
        traffic = [system.counts.get(key, 0) for key in TRAFFIC]
        results = dict(attended=np.packbits(bits, axis=1), retained_mass=mass, output_error=error,
                       layer_error=layer_error, traffic=traffic)
        for name, result in results.items():
            columns.setdefault(name, []).append(result)
    columns["stored"] = system.stored
    if system.kept is not None:
        columns["kept"] = system.kept
    changed = system.changed(trace.length - 1)
    if changed is not None:
        columns["keys"], columns["values"] = map(digest, changed)
    return columns


def store(file, name, make, trace, policy, budget, layers):
    """Runs `make(layer, entries)` over the decode rows of a trace and writes the group `name`."""
    entries = trace.entries(budget)
    chosen = [layer for layer in trace.layers if layer.index in layers]
    systems = [make(layer, entries) for layer in chosen]
    group = file.create_group(name)
    group.attrs.update(policy=policy, budget=str(budget), trace=trace.name, entries=entries, hot=systems[0].hot,
                       layers=" ".join(str(layer.index) for layer in chosen))
    results = [replay(system) for system in systems]
    for key, kind in KINDS.items():
        if key in results[0]:
            values = np.asarray([result[key] for result in results], dtype=kind)
            packed = dict(compression="gzip", shuffle=True, chunks=values.shape) if values.nbytes > 3000 else {}
            group.create_dataset(key, data=values, **packed)
