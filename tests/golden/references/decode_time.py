"""References of systems that follow attention while decoding, from the papers and docs/policies/NAME.md.

    decode_time.py TRACES FOLDER     reads the traces in TRACES, writes references-decode.*.golden.h5 to FOLDER
"""
import os
import sys

import numpy as np

from golden_file import GoldenFile, Point
from selection import keep, newest
from trace import Trace


def replay(trace, point, cut, per_query_head=False, decoding=True):
    """`cut(attention, resident, seen)` answers what stays, and scores by place or None. attention[layer] is [T, Hq, T],
    NaN where a row did not meet an entry: prompt rows meet all before them, decode rows what is resident."""
    heads = trace.query_heads if per_query_head else trace.heads
    attention = {layer: np.full((trace.length, trace.query_heads, trace.length), np.nan) for layer in trace.layers}
    resident = {(layer, head): np.arange(trace.prompt) for layer in trace.layers for head in range(heads)}

    def attend(row, entries_of):
        for layer in trace.layers:
            for h in range(trace.query_heads):
                entries = entries_of(layer, h if per_query_head else h // trace.group)
                attention[layer][row, h, entries] = trace.attention(layer, row, h, entries)

    for row in range(trace.prompt):
        attend(row, lambda layer, head: np.arange(row + 1))
    resident, scores = cut(attention, resident, trace.prompt)
    point.prompt(resident, scores)
    for row in range(trace.prompt, trace.length if decoding else trace.prompt):
        resident = {place: np.append(entries, row) for place, entries in resident.items()}
        attend(row, lambda layer, head: resident[layer, head])
        resident, _ = cut(attention, resident, row + 1)
        point.decoded(row, resident)
    return point


def pooled(values, kernel, mode):
    """Over neighbours; an average counts zeros beyond the ends."""
    half = kernel // 2
    ends = -np.inf if mode == "max" else 0.0
    rows = np.lib.stride_tricks.sliding_window_view(np.pad(values, half, constant_values=ends), kernel)
    return rows.max(axis=1) if mode == "max" else rows.sum(axis=1) / kernel


SIGNALS = {
    "probability": lambda p, entries, tokens: p,
    "squared": lambda p, entries, tokens: p * p,
    "above_uniform": lambda p, entries, tokens: 1.0 * (p >= 1 / entries),
    "below_uniform": lambda p, entries, tokens: -1.0 * (p < 1 / tokens),
}


class Accumulated:
    """What entries received from some of the rows so far; see docs/policies/h2o.md."""

    def __init__(self, trace, accumulate="all", history=400, normalise="none", group="mean", signal="probability",
                 kernel=1, pool="avg"):
        self.trace, self.accumulate, self.history = trace, accumulate, history
        self.normalise, self.group, self.signal, self.kernel, self.pool = normalise, group, signal, kernel, pool

    def rows(self, seen):
        first = {"all": 0, "window": seen - self.history, "last": seen - 1,
                 "since_window": self.trace.prompt - self.history}[self.accumulate]
        return range(max(0, first), seen)

    def scores(self, attention, place, entries, seen):
        """[T], NaN where nothing is resident."""
        layer, head = place
        heads = [head] if self.group == "none" else range(head * self.trace.group, (head + 1) * self.trace.group)
        rows = self.rows(seen)
        p = attention[layer][rows.start:seen][:, heads]
        met = ~np.isnan(p)
        with np.errstate(invalid="ignore"):
            tokens = 1.0 + np.arange(rows.start, seen)[:, None, None]
            added = SIGNALS[self.signal](p, met.sum(axis=2, keepdims=True), tokens)
        totals = np.where(met, added, 0).sum(axis=0)[:, entries]
        if self.normalise == "lifetime":
            totals = totals / (seen - entries)
        if self.normalise == "queries":
            totals = totals / met.sum(axis=0)[:, entries]
        reduced = {"mean": np.mean, "max": np.max, "sum": np.sum, "none": np.sum}[self.group](totals, axis=0)
        if self.kernel > 1:
            reduced = pooled(reduced, self.kernel, self.pool)
        row = np.full(self.trace.length, np.nan)
        row[entries] = reduced
        return row


def heads_alone(trace, name, budget, received, trigger, count, protected, per_query_head=False, decoding=True):
    """Each head for itself: cut to `count(seen)` entries when `trigger(held, seen)`."""
    point = Point(trace, name, budget)

    def cut(attention, resident, seen):
        kept, rows = {}, {}
        safe = protected(seen)
        for place, held in resident.items():
            scores = received.scores(attention, place, held, seen)
            kept[place] = keep(point, scores, held, count(seen), safe) if trigger(len(held), seen) else held
            if seen == trace.prompt:
                rows[place] = scores[: trace.prompt]
                rows[place][list(safe)] = np.nan
        return kept, rows

    return replay(trace, point, cut, per_query_head, decoding)


def h2o(trace, name, budget, variant="real_drop", evict="auto", interval=128, recent=None, recent_share=0.5, sinks=0,
        **sums):
    received = Accumulated(trace, **sums)
    if recent is None:
        recent = int(budget * recent_share)
    if variant == "flexgen":
        recent = (budget + 1) // 2
    step = interval if evict == "interval" else 1

    def trigger(held, seen):
        return held > budget and (seen - trace.prompt) % step == 0

    def protected(seen):
        less = 1 if variant == "flexgen" and seen == trace.prompt else 0
        return list(range(sinks)) + list(newest(seen, recent - less))

    return heads_alone(trace, name, budget, received, trigger, lambda seen: budget, protected,
                       sums.get("group") == "none", variant != "prefill")


def scissorhands(trace, name, budget, history, recent, drop=0.5, group="mean"):
    """The paper: a full cache loses `drop` of it."""
    received = Accumulated(trace, "window", history, group=group, signal="below_uniform")
    return heads_alone(trace, name, budget, received, lambda held, seen: held > budget,
                       lambda seen: budget - int(drop * budget), lambda seen: newest(seen, recent), group == "none")


def cold_compress(trace, name, budget, history, recent, sinks, thresholding=False, group="mean"):
    signal = "above_uniform" if thresholding else "probability"
    received = Accumulated(trace, "window", history, "queries", group, signal)
    return heads_alone(trace, name, budget, received, lambda held, seen: held > budget, lambda seen: budget,
                       lambda seen: list(range(sinks)) + list(newest(seen, recent)), group == "none")


def persistence(trace, name, history, recent, percentile=0.9, first_layer=5, last_layer=35):
    """The authors' code: what no query of the last `history` put above a percentile of its row goes. The percentile is
    the int(0.9 n)-th of the row's n entries in ascending order, counted from 0."""
    point = Point(trace, name, 0)

    def cut(attention, resident, seen):
        kept, safe = {}, newest(seen, recent)
        for (layer, head), held in resident.items():
            kept[layer, head] = held
            if not first_layer <= layer <= last_layer:
                continue
            important = np.zeros(trace.length, bool)
            for row in range(max(0, seen - history), seen):
                for h in range(head * trace.group, (head + 1) * trace.group):
                    p = attention[layer][row, h]
                    met = np.sort(p[~np.isnan(p)])
                    important |= np.nan_to_num(p, nan=-1) > met[min(int(percentile * len(met)), len(met) - 1)]
            kept[layer, head] = np.asarray([e for e in held if important[e] or e in safe])
        return kept, None

    return replay(trace, point, cut)


def kv_compress(trace, name, budget, block=16, queries="window", window=32, protected=32, metric="l2", average=False,
                kernel=7, every=1):
    received = Accumulated(trace, "all" if queries == "all" else "since_window", window,
                           "queries" if average else "none", "sum", "squared" if metric == "l2" else "probability",
                           kernel, "max")
    point = Point(trace, name, budget)

    def cut(attention, resident, seen):
        metrics = {place: received.scores(attention, place, held, seen) for place, held in resident.items()}
        rows = {place: row[: trace.prompt].copy() for place, row in metrics.items()}
        for row in rows.values():
            row[[e for e in newest(seen, protected) if e < trace.prompt]] = np.nan
        if seen > trace.prompt and (every == 0 or (seen - trace.prompt) % every != 0):
            return resident, rows
        offers = []
        for place, held in sorted(resident.items()):
            free = np.asarray([e for e in held if e not in newest(seen, protected)], int)
            # weakest first; of equal metrics the newer goes
            order = free[np.lexsort((-free, metrics[place][free]))]
            taken, size = 0, len(held) % block or block
            while taken + size <= len(order) and len(held) - taken - size >= min(block, budget):
                leaving = order[taken:taken + size]
                offers.append((metrics[place][leaving[-1]], place, leaving))
                taken, size = taken + size, block
        offers.sort(key=lambda offer: offer[:2])
        surplus = sum(len(held) for held in resident.values()) - budget * len(resident)
        gone = {place: [] for place in resident}
        prices = [offer[0] for offer in offers]
        for number, (_, place, leaving) in enumerate(offers):
            if surplus <= 0:
                point.note_gap(prices[number:], prices[:number])
                break
            gone[place].extend(leaving)
            surplus -= len(leaving)
        assert surplus <= 0, "protected entries would go"
        return {place: np.setdiff1d(held, gone[place]) for place, held in resident.items()}, rows

    return replay(trace, point, cut, decoding=every > 0)


def crushed(sums, candidates, block, crush, anchor):
    """KVCrush: of the candidate blocks so many that differ in which tokens are in the better half, by their sums."""
    bits = np.zeros(len(sums), int)
    bits[np.argsort(-sums, kind="stable")[: len(sums) // 2]] = 1
    bits = bits.reshape(-1, block)
    pattern = {"zeros": np.zeros(block), "ones": np.ones(block), "mean": bits.mean(axis=0) > 0.5,
               "alternating": np.arange(block) % 2}[anchor]
    distance = (bits[candidates] != pattern).sum(axis=1)
    by_distance = np.asarray(candidates)[np.argsort(distance, kind="stable")]
    return by_distance[np.arange(crush) * (len(candidates) // crush)]


def openvino(trace, name, budget, start=32, recent=128, block=16, aggregation="norm_sum", max_pool=7, snapkv_window=8,
             crush=0, anchor=None):
    point = Point(trace, name, budget)
    areas = block * ((budget + 1 - block) // block)
    assert areas - crush * block >= start + recent + block
    sums = {layer: np.zeros(trace.length) for layer in trace.layers}
    met = {layer: np.zeros(trace.length) for layer in trace.layers}

    def cut(attention, resident, seen):
        kept = {}
        for layer in trace.layers:
            held = resident[layer, 0]
            window = snapkv_window if snapkv_window else trace.prompt
            rows = range(max(0, trace.prompt - window), trace.prompt) if seen == trace.prompt else range(seen - 1, seen)
            received = np.nansum(attention[layer][rows.start:seen], axis=(0, 1))[held]
            padded = np.pad(received, (0, max_pool - 1), constant_values=-np.inf)
            sums[layer][held] += np.lib.stride_tricks.sliding_window_view(padded, max_pool).max(axis=1)
            for row in rows:
                met[layer][held[held <= row]] += 1
            if len(held) > budget:
                scores = sums[layer][held] / (met[layer][held] if aggregation == "norm_sum" else 1)
                blocks = (len(held) - start - recent) // block
                totals = scores[start:start + blocks * block].reshape(blocks, block).sum(axis=1)
                order = np.argsort(totals, kind="stable")
                gone = order[: (len(held) - areas) // block + crush]
                point.note_gap(totals[order[len(gone):]], totals[gone])
                if crush:
                    middle = sums[layer][held][start:start + blocks * block]
                    gone = np.setdiff1d(gone, crushed(middle, np.sort(gone), block, crush, anchor))
                places = np.concatenate([start + b * block + np.arange(block) for b in gone])
                held = np.delete(held, places)
            kept |= {(layer, head): held for head in range(trace.heads)}
        return kept, None

    return replay(trace, point, cut)


def resemblance(keys, block):
    """[blocks, blocks * block]: how much the keys [heads, tokens, d] of a block resemble every key. Cosines; of a key's
    own row those below its mean count as 0, as does itself; mean over the heads, sum over the block."""
    unit = keys / np.linalg.norm(keys, axis=2, keepdims=True)
    cosine = unit @ unit.transpose(0, 2, 1)
    cosine[:, np.arange(cosine.shape[1]), np.arange(cosine.shape[1])] = 0
    cosine[cosine < cosine.mean(axis=2, keepdims=True)] = 0
    return cosine.mean(axis=0).reshape(-1, block, cosine.shape[1]).sum(axis=1)


def openvino_rkv(trace, name, budget, start=32, recent=128, block=16, max_pool=7, snapkv_window=8, adaptive_window=8,
                 mass=0.9):
    """aggregation=adaptive_rkv. The prompt's queries count together, as one."""
    point = Point(trace, name, budget)
    areas = block * ((budget + 1 - block) // block)
    stay = (areas - start - recent) // block
    assert stay >= 1
    last = {layer: [] for layer in trace.layers}  # queries since the last eviction

    def cut(attention, resident, seen):
        kept = {}
        for layer in trace.layers:
            held = resident[layer, 0]
            window = snapkv_window if snapkv_window else trace.prompt
            first = max(0, trace.prompt - window) if seen == trace.prompt else seen - 1
            last[layer] = last[layer][-adaptive_window + 1:] if adaptive_window > 1 else []
            last[layer].append(np.nansum(attention[layer][first:seen], axis=(0, 1)))
            if len(held) > budget:
                mean = np.pad(np.mean(last[layer], axis=0)[held], (0, max_pool - 1), constant_values=-np.inf)
                scores = np.lib.stride_tricks.sliding_window_view(mean, max_pool).max(axis=1)
                blocks = (len(held) - start - recent) // block
                area = slice(start, start + blocks * block)
                totals = scores[area].reshape(blocks, block).sum(axis=1)
                order = np.argsort(-totals, kind="stable")
                before = np.cumsum(totals[order]) - totals[order]  # mass of what ranks above a block
                best = order[:stay][before[:stay] < mass * totals.sum()]
                point.gap = min(point.gap, np.abs(before / totals.sum() - mass).min())
                others = np.setdiff1d(np.arange(blocks), best)
                point.note_gap(totals[best], totals[others])
                columns = (others[:, None] * block + np.arange(block)).ravel()
                alike = resemblance(trace.k[layer][held[area]].transpose(1, 0, 2), block)[:, columns].mean(axis=1)
                order = others[np.argsort(alike[others], kind="stable")]
                gone = order[stay - len(best):]
                point.note_gap(-alike[order[:stay - len(best)]], -alike[gone])
                held = np.delete(held, (start + gone[:, None] * block + np.arange(block)).ravel())
                last[layer] = []
            kept |= {(layer, head): held for head in range(trace.heads)}
        return kept, None

    return replay(trace, point, cut)


SOURCES = {"h2o": "2306.14048; FMInference/H2O, AnswerDotAI/cold-compress, R-KV's repository",
           "scissorhands": "2305.17118", "cold_compress": "AnswerDotAI/cold-compress",
           "persistence": "lzcemma/Scissorhands", "kv_compress": "2410.00161",
           "openvino": "OpenVINO GenAI cache_eviction.cpp",
           "openvino_rkv": "OpenVINO GenAI cache_eviction.cpp, OpenVINO adaptive_rkv_diversity.hpp"}

# system, parameters, policy where the command line writes it another way, budgets by trace
RUNS = [
    ("h2o", dict(variant="flexgen"), None, {"tiny-g4": [40, 41], "hidden-g4": [7]}),
    ("h2o", dict(variant="flexgen", group="none"), None, {"tiny-g2": [75], "hidden-g1": [5, 8]}),
    ("h2o", dict(accumulate="last", recent=8), None, {"tiny-g2": [40], "smollm2": [64], "hidden-g4": [4]}),
    ("h2o", dict(normalise="queries", recent=10, sinks=4, accumulate="window", history=20), None,
     {"tiny-g4": [48], "tiny-g1": [90], "smollm2": [50]}),
    ("h2o", dict(normalise="queries", recent=3, sinks=4), None, {"tiny-g2": [48], "hidden-g4": [6]}),
    ("h2o", dict(variant="prefill", recent=0, normalise="lifetime", group="max"), None,
     {"tiny-g2": [60], "tiny-g4": [20], "smollm2": [90]}),
    ("h2o", dict(normalise="lifetime", recent=5, group="sum"), None, {"tiny-g4": [64], "hidden-g2": [12]}),
    ("h2o", dict(accumulate="since_window", history=12, signal="squared", group="sum", recent=6, kernel=5, pool="max"),
     None, {"tiny-g2": [50], "hidden-g2": [15]}),
    ("h2o", dict(signal="above_uniform", recent=5, group="max"), None, {"tiny-g4": [33], "hidden-g1": [11]}),
    ("h2o", dict(signal="below_uniform", accumulate="window", history=9, recent=4, group="sum"), None,
     {"tiny-g2": [45], "hidden-g2": [10]}),
    ("h2o", dict(evict="interval", interval=3, recent=7, kernel=3, pool="avg"), None,
     {"tiny-g4": [70], "tiny-g1": [30], "hidden-g4": [8]}),
    ("h2o", dict(recent_share=0.25), None, {"tiny-g1": [48], "hidden-g1": [12]}),
    ("scissorhands", dict(history=30, recent=6, drop=0.4), None,
     {"tiny-g2": [100], "tiny-g4": [195], "smollm2": [260]}),
    ("scissorhands", dict(history=400, recent=3, drop=0.5, group="max"), None, {"tiny-g4": [50], "hidden-g4": [14]}),
    ("scissorhands", dict(history=7, recent=2, drop=0.1, group="sum"), None, {"tiny-g1": [120], "hidden-g2": [20]}),
    ("cold_compress", dict(history=25, recent=5, sinks=3), "scissorhands(variant=cold_compress,{})",
     {"tiny-g2": [50], "smollm2": [100], "hidden-g4": [9]}),
    ("cold_compress", dict(history=16, recent=4, sinks=2, thresholding=True, group="sum"),
     "scissorhands(variant=cold_compress,{})", {"tiny-g4": [60], "hidden-g2": [12]}),
    ("persistence", dict(history=6, recent=4), "scissorhands(variant=code,{})", {"smollm2": [0]}),
    ("persistence", dict(history=3, recent=5, percentile=0.75, first_layer=1, last_layer=2),
     "compose(scorer=persistence({}),allocator=not_dropped(),schedule=every(steps=1))",
     {"tiny-g2": [0], "tiny-g4": [0]}),
    ("kv_compress", dict(block=8, window=16, protected=16), None, {"tiny-g2": [60], "tiny-g4": [100]}),
    ("kv_compress", dict(block=16, queries="all", metric="l1", average=True, kernel=1, every=3, protected=8), None,
     {"tiny-g1": [50], "tiny-g4": [90]}),
    ("kv_compress", dict(block=5, kernel=3, window=10, protected=4, every=0), None, {"tiny-g2": [75], "smollm2": [64]}),
    ("kv_compress", dict(block=3, window=5, protected=2, kernel=1, every=2), None,
     {"hidden-g2": [14], "hidden-g1": [10]}),
    ("openvino", dict(start=8, recent=16, block=8, max_pool=3), None, {"tiny-g2": [64], "tiny-g4": [90]}),
    ("openvino", dict(start=16, recent=16, block=16), None, {"smollm2": [100], "tiny-g1": [80]}),
    ("openvino", dict(start=4, recent=8, block=4, snapkv_window=0, max_pool=5), None,
     {"tiny-g4": [51], "hidden-g2": [21]}),
    ("openvino", dict(start=0, recent=6, block=3, snapkv_window=12, max_pool=1, aggregation="sum"), None,
     {"tiny-g2": [34], "hidden-g2": [17], "hidden-g1": [15]}),
    ("openvino", dict(start=2, recent=2, block=1, max_pool=2), None, {"hidden-g4": [7]}),
    ("openvino", dict(start=8, recent=8, block=8, crush=2, anchor="zeros"), None, {"tiny-g2": [80], "tiny-g4": [64]}),
    ("openvino", dict(start=0, recent=4, block=4, crush=3, anchor="alternating"), None,
     {"tiny-g1": [60], "hidden-g2": [25]}),
    ("openvino", dict(start=4, recent=8, block=4, crush=1, anchor="mean"), None, {"tiny-g2": [41], "hidden-g1": [27]}),
    ("openvino", dict(start=5, recent=5, block=5, crush=2, anchor="ones", aggregation="sum"), None, {"tiny-g4": [70]}),
    ("openvino_rkv", dict(start=8, recent=16, block=8, max_pool=3), "openvino(aggregation=adaptive_rkv,{})",
     {"tiny-g2": [64, 90], "tiny-g4": [90]}),
    ("openvino_rkv", dict(start=4, recent=8, block=4, adaptive_window=3, mass=0.6),
     "openvino(aggregation=adaptive_rkv,{})", {"tiny-g1": [51], "tiny-g4": [100], "hidden-g2": [27]}),
    ("openvino_rkv", dict(start=0, recent=3, block=3, max_pool=2, snapkv_window=0, mass=0.3),
     "openvino(aggregation=adaptive_rkv,{})", {"smollm2": [60], "tiny-g2": [195], "hidden-g1": [16]}),
    ("openvino_rkv", dict(start=1, recent=2, block=1, max_pool=1, adaptive_window=1, mass=0.5),
     "openvino(aggregation=adaptive_rkv,{})", {"tiny-g4": [30], "hidden-g2": [21]}),
    ("openvino_rkv", dict(start=2, recent=2, block=2, max_pool=5, mass=1), "openvino(aggregation=adaptive_rkv,{})",
     {"hidden-g1": [32], "hidden-g4": [14]}),
]
TRACES = ["tiny-g1", "tiny-g2", "tiny-g4", "smollm2", "hidden-g1", "hidden-g2", "hidden-g4"]


def arguments(parameters):
    named = {key: value for key, value in parameters.items() if key != "sinks"}
    return ",".join(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in named.items())


def main(traces, folder):
    for trace_name in TRACES:
        trace = Trace(os.path.join(traces, trace_name + ".h5"))
        with GoldenFile(os.path.join(folder, f"references-decode.{trace_name}.golden.h5"), 0) as golden:
            for number, (system, parameters, written, budgets) in enumerate(RUNS):
                shown = arguments(parameters)
                if system == "cold_compress":
                    shown += f",sinks={parameters['sinks']}"
                elif "sinks" in parameters:
                    shown += f",protection=sinks(count={parameters['sinks']})"
                policy = (written or system + "({})").format(shown)
                for budget in budgets.get(trace_name, []):
                    options = {} if system == "persistence" else dict(budget=budget)
                    point = globals()[system](trace, f"{budget:03}", **options, **parameters)
                    golden.add(f"{system}-{number:02}", policy, SOURCES[system], point)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
