"""Float64 references of prompts put together from documents that were read alone (KV Packet, arXiv 2604.13226), from
docs/policies/kvpacket.md and docs/trace-format.md.

    packets.py FOLDER      writes packets-*.h5, random traces with packets, and references-packets.golden.h5 there

Groups as placements.py lays them out, without `attended`: boundary rows are attended and are no tokens.
"""
import os
import sys

import h5py
import numpy as np

from layers import largest, relative
from placements import KINDS, TRAFFIC, WIDTH
from trace import Trace, softmax

# name: captured layers, layers of the model, query heads, KV heads, d, D, prompt, length, documents, rows of header and
# trailer, first position, positions skipped before a token, and what else differs
TRACES = {
    "packets-g1": dict(layers=[0, 1, 2], model=3, query=3, kv=3, d=8, width=16, prompt=44, length=51,
                       documents=[[3, 17], [17, 36]], wrappers=[[4, 4], [4, 4]], first=100, skipped={},
                       windows=[0, 12, 0], attributes=dict(rope_layout="half")),
    "packets-g2": dict(layers=[0, 2], model=3, query=4, kv=2, d=8, width=20, prompt=60, length=68,
                       documents=[[6, 20], [20, 33], [36, 52]], wrappers=[[2, 3], [1, 0], [2, 2]], first=5, skipped={},
                       attributes=dict(rope_layout="half")),
    "packets-g4": dict(layers=[1], model=2, query=4, kv=1, d=6, width=12, prompt=40, length=46,
                       documents=[[0, 15], [18, 40]], wrappers=[[0, 2], [3, 1]], first=7, skipped={18: 4, 40: 3, 44: 2},
                       attributes=dict(rope_layout="interleaved", rotary_dim=4, rope_attention_scaling=1.25,
                                       logit_softcap=4.0)),
}


def write_trace(path, shape, seed):
    draw, length = np.random.RandomState(seed), shape["length"]
    rotary = shape["attributes"].get("rotary_dim", shape["d"])

    def normal(*size):
        return draw.normal(0, 1, size).astype(np.float32)

    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file.attrs.update(format="evictsim-trace", format_version=1, model="random numbers", engine="numpy",
                          engine_version="1", created="2026-11-23T00:00:00Z", num_layers=shape["model"],
                          num_query_heads=shape["query"], num_kv_heads=shape["kv"], head_dim=shape["d"],
                          hidden_size=shape["width"], vocab_size=50, attention_scale=0.4, logit_softcap=0.0,
                          rope_theta=100.0, rope_attention_scaling=1.0)
        file.attrs.update(shape["attributes"])
        file["model/layers"] = np.asarray(shape["layers"], np.int32)
        file["model/inv_freq"] = 100.0 ** (-np.arange(0, rotary, 2) / rotary)
        if "windows" in shape:
            file["model/sliding_window"] = np.asarray(shape["windows"], np.int32)
        sequence = file.create_group("sequences/000000")
        sequence.attrs.update(prompt_length=shape["prompt"], length=length)
        sequence["token_ids"] = draw.randint(0, 50, length).astype(np.int32)
        steps = [1 + shape["skipped"].get(token, 0) for token in range(1, length)]
        sequence["positions"] = np.cumsum([shape["first"]] + steps).astype(np.int32)
        documents = np.asarray(shape["documents"], np.int32)
        behind = length - documents[-1, 1]
        heads = dict(k=shape["kv"], v=shape["kv"], q=shape["query"])
        for packets in ("wrapped", "bare"):
            group = sequence.create_group(f"packets/{packets}")
            group["documents"] = documents
            wrappers = np.asarray(shape["wrappers"], np.int32) * (packets == "wrapped")
            group["wrappers"] = wrappers
            rows = int((documents[:, 1] - documents[:, 0]).sum() + wrappers.sum())
            for layer in shape["layers"]:
                for tensor, count in heads.items():
                    group[f"layer_{layer:03}/{tensor}"] = normal(rows, count, shape["d"])
                    group[f"layer_{layer:03}/after_{tensor}"] = normal(behind, count, shape["d"])
        for layer in shape["layers"]:
            for tensor, count in heads.items():
                sequence[f"layer_{layer:03}/{tensor}"] = normal(length, count, shape["d"])
            file[f"model/layer_{layer:03}/w_o"] = normal(shape["width"], shape["query"] * shape["d"])


# Presses: which rows of a packet stay, [KV head]; `count` per head ---------------------------------------------------


def knorm_scores(trace, q, k):
    return -np.linalg.norm(k, axis=2).T


def keydiff_scores(trace, q, k):
    unit = k / np.linalg.norm(k, axis=2, keepdims=True)
    anchor = unit.mean(axis=0)
    return -((unit * anchor).sum(axis=2) / np.linalg.norm(anchor, axis=1)).T


def snapkv_scores(trace, q, k, window, kernel):
    """The window's mean attention to what stands before it, averaged over neighbours, mean over the group."""
    rows = len(k)
    scores = np.full((trace.heads, rows), np.nan)
    for head in range(trace.heads):
        each = []
        for h in range(head * trace.group, (head + 1) * trace.group):
            received = np.zeros(rows)
            for row in range(rows - window, rows):
                received[: row + 1] += softmax(trace.logits(q[row, h], k[: row + 1, head])) / window
            each.append(np.convolve(received[: rows - window], np.ones(kernel) / kernel, mode="same"))
        scores[head, : rows - window] = np.mean(each, axis=0)
    for head in range(trace.heads):  # above all others, the newer ones more
        scores[head, rows - window:] = 2 + np.arange(window)
    return scores


PRESSES = {
    "knorm": knorm_scores,
    "keydiff": keydiff_scores,
    "snapkv(window=4,kernel=3)": lambda *packet: snapkv_scores(*packet, window=4, kernel=3),
}


def pressed(trace, press, q, k, count, protected):
    """Protected rows first, the newest of them first; then by score."""
    if press == "adakv(knorm,alpha=0.3)":  # each head's best are safe, all heads compete for the rest
        scores, safe = knorm_scores(trace, q, k), max(1, int(0.3 * count))
        for row in scores:
            row[largest(row, safe)] += 1e6
        chosen = largest(scores.ravel(), count * len(scores))
        return [chosen[chosen // len(k) == head] % len(k) for head in range(len(scores))]
    kept = []
    for row in PRESSES[press](trace, q, k):
        safe = np.asarray(protected, int)[max(0, len(protected) - count):]
        others = np.setdiff1d(np.arange(len(k)), protected)
        kept.append(np.sort(np.append(safe, others[largest(row[others], count - len(safe))])).astype(int))
    return kept


# The prompt put together ---------------------------------------------------------------------------------------------


class PacketTrace(Trace):
    def __init__(self, path):
        super().__init__(path)
        self.w_o, self.packets, self.windows = {}, {}, {layer: 0 for layer in self.layers}
        with h5py.File(path, "r") as file:
            for i, layer in enumerate(self.layers):
                self.w_o[layer] = file[f"model/layer_{layer:03}/w_o"][...].astype(np.float64)
                if "model/sliding_window" in file:
                    self.windows[layer] = int(file["model/sliding_window"][i])
            for name, group in file["sequences/000000/packets"].items():
                read = {layer: {key: x[...].astype(np.float64) for key, x in group[f"layer_{layer:03}"].items()}
                        for layer in self.layers}
                self.packets[name] = group["documents"][...], group["wrappers"][...], read

    def logits(self, query, keys):
        logits = self.scale * keys @ query
        return self.softcap * np.tanh(logits / self.softcap) if self.softcap > 0 else logits


class Assembled:
    """One layer of a prompt out of packets."""

    def __init__(self, trace, layer, budget, packets="wrapped", press="", protect="false", loop="open", under=None):
        self.trace, self.layer, self.under, self.budget = trace, layer, under, budget
        documents, wrappers, tensors = trace.packets[packets]
        tensors, n = tensors[layer], trace.prompt
        self.first, self.end = documents[0, 0], documents[-1, 1]
        share = budget / n if budget >= 2 else budget
        self.k, self.v = [[] for _ in range(trace.heads)], [[] for _ in range(trace.heads)]
        self.token = [[] for _ in range(trace.heads)]  # of every packet row kept; -1: boundary
        place, start = trace.positions[self.first], 0
        for (begin, end), (header, trailer) in zip(documents, wrappers):
            rows = end - begin + header + trailer
            k, v, q = (tensors[name][start:start + rows] for name in "kvq")
            tokens = np.concatenate([np.full(header, -1), np.arange(begin, end), np.full(trailer, -1)])
            kept = [np.arange(rows)] * trace.heads
            if press:
                boundary = np.flatnonzero(tokens < 0) if protect == "true" else []
                kept = pressed(trace, press, q, k, max(1, int(rows * share)), boundary)
            turned = trace.turned(k, place)
            for head in range(trace.heads):
                self.k[head].extend(turned[kept[head], head])
                self.v[head].extend(v[kept[head], head])
                self.token[head].extend(tokens[kept[head]])
            place, start = place + rows, start + rows
        self.token = [np.asarray(tokens, int) for tokens in self.token]
        # What stands behind keeps its distance from the last document's last token, now the last packet's last row.
        moved = place - 1 - trace.positions[self.end - 1]
        if loop == "closed":
            self.after = {name: tensors["after_" + name] for name in "kvq"}
        else:
            self.after = {name: getattr(trace, name)[layer][self.end:] for name in "kvq"}
            for name in "kq":
                self.after[name] = trace.turned(self.after[name], moved)
        entries = int(budget) if budget >= 2 else max(1, int(n * budget))
        self.resident = [np.arange(n)] * trace.heads
        if under == "knorm":
            self.resident = [largest(-np.linalg.norm(trace.k[layer][:n, head], axis=1), entries)
                             for head in range(trace.heads)]
        elif under == "window":
            self.resident = [np.arange(n - entries, n)] * trace.heads
        self.stored = [WIDTH * 2 * trace.width * sum(self.attended(head)[0] for head in range(trace.heads)), 0, 0]

    def attended(self, head):
        """How many entries, and where they are: fresh tokens, and places among the packet rows kept."""
        resident = self.resident[head]
        fresh = resident[(resident < self.first) | (resident >= self.end)]
        rows = np.flatnonzero((self.token[head] < 0) | np.isin(self.token[head], resident))
        return len(fresh) + len(rows), fresh, rows

    def row(self, row):
        trace, layer = self.trace, self.layer
        self.resident = [np.append(entries[1:] if self.under == "window" and row > trace.prompt else entries, row)
                         for entries in self.resident]
        mass, error, full, cut, hits = [], [], [], [], 0
        for h in range(trace.query_heads):
            head = h // trace.group
            _, fresh, rows = self.attended(head)
            before, behind = fresh[fresh < self.first], fresh[fresh >= self.end] - self.end
            keys = np.concatenate([trace.k[layer][before, head], np.asarray(self.k[head])[rows],
                                   self.after["k"][behind, head]])
            values = np.concatenate([trace.v[layer][before, head], np.asarray(self.v[head])[rows],
                                     self.after["v"][behind, head]])
            p = trace.attention(layer, row, h, np.arange(row + 1))
            tokens = self.token[head][rows]
            tokens = np.concatenate([fresh, tokens[tokens >= 0]])
            mass.append(p[tokens].sum())
            hits += len(tokens) if h % trace.group == 0 else 0
            full.append(p @ trace.v[layer][: row + 1, head])
            cut.append(softmax(trace.logits(self.after["q"][row - self.end, h], keys)) @ values)
            error.append(relative(cut[-1] - full[-1], full[-1]))
        whole = trace.w_o[layer] @ np.concatenate(full)
        layer_error = relative(trace.w_o[layer] @ np.concatenate(cut) - whole, whole)
        return dict(retained_mass=mass, output_error=error, layer_error=layer_error,
                    traffic=[hits] + [0] * (len(TRAFFIC) - 1))


class Windowed:
    """A layer with a sliding window is left alone: nothing is counted, -1."""

    def __init__(self, trace):
        self.heads, self.stored = trace.query_heads, [-1] * 3

    def row(self, _):
        return dict(retained_mass=[1.0] * self.heads, output_error=[0.0] * self.heads, layer_error=0.0,
                    traffic=[-1] * len(TRAFFIC))


# Parameters, budgets by trace
RUNS = [
    (dict(), {"packets-g1": "0.5", "packets-g2": "0.3 20", "packets-g4": "0.5"}),
    (dict(packets="bare"), {"packets-g1": "0.5", "packets-g2": "0.5", "packets-g4": "0.4"}),
    (dict(loop="closed"), {"packets-g1": "0.5", "packets-g2": "0.5", "packets-g4": "0.5"}),
    (dict(packets="bare", loop="closed"), {"packets-g2": "0.5", "packets-g4": "0.5"}),
    (dict(press="knorm"), {"packets-g1": "0.3 0.7 2", "packets-g2": "0.25 0.5 0.9 10 31", "packets-g4": "0.5 7"}),
    (dict(press="knorm", protect="true"), {"packets-g1": "0.2 0.5", "packets-g2": "0.1 0.5 25", "packets-g4": "0.07 0.6"}),
    (dict(press="keydiff", packets="bare"), {"packets-g1": "0.4", "packets-g2": "0.35 40", "packets-g4": "0.8"}),
    (dict(press="keydiff", loop="closed", protect="true"), {"packets-g1": "0.4", "packets-g2": "0.35", "packets-g4": "0.6"}),
    (dict(press="snapkv(window=4,kernel=3)"), {"packets-g1": "0.5", "packets-g2": "0.2 0.6", "packets-g4": "0.45"}),
    (dict(press="snapkv(window=4,kernel=3)", packets="bare", loop="closed"), {"packets-g2": "0.4", "packets-g4": "0.7"}),
    (dict(press="adakv(knorm,alpha=0.3)"), {"packets-g1": "0.4", "packets-g2": "0.5"}),
    (dict(under="knorm"), {"packets-g1": "0.5", "packets-g2": "0.3 0.8 20", "packets-g4": "0.5"}),
    (dict(under="knorm", packets="bare", press="keydiff", loop="closed"), {"packets-g2": "0.6", "packets-g4": "0.7"}),
    (dict(under="window"), {"packets-g1": "0.6", "packets-g2": "0.5", "packets-g4": "9"}),
]


def main(folder):
    traces = {}
    for number, (name, shape) in enumerate(TRACES.items()):
        path = os.path.join(folder, name + ".h5")
        write_trace(path, shape, 300 + number)
        traces[name] = PacketTrace(path)
    with h5py.File(os.path.join(folder, "references-packets.golden.h5"), "w", libver=("v110", "v110")) as file:
        for number, (parameters, budgets) in enumerate(RUNS):
            shown = ",".join(f"{key}='{value}'" if key == "press" else f"{key}={value}"
                             for key, value in parameters.items() if key != "under")
            policy = (parameters["under"] + "@" if "under" in parameters else "") + f"kvpacket({shown})"
            for name, trace in traces.items():
                for budget in budgets.get(name, "").split():
                    share = float(budget)
                    entries = int(share) if share >= 2 else max(1, int(trace.prompt * share))
                    group = file.create_group(f"kvpacket-{number:02}-{name}-{budget}")
                    group.attrs.update(policy=policy, budget=budget, trace=name, entries=entries,
                                       layers=" ".join(map(str, trace.layers)))
                    columns = {}
                    for layer in trace.layers:
                        assembled = (Windowed(trace) if trace.windows[layer] else
                                     Assembled(trace, layer, share, **parameters))
                        rows = [assembled.row(row) for row in range(trace.prompt, trace.length)]
                        for key in rows[0]:
                            columns.setdefault(key, []).append([row[key] for row in rows])
                        columns.setdefault("stored", []).append(assembled.stored)
                    for key, values in columns.items():
                        group[key] = np.asarray(values, dtype=KINDS[key])


if __name__ == "__main__":
    main(sys.argv[1])
