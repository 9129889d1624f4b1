"""References of variants of EpiKV, SAGE-KV and InfoKV that seeds-b.md does not have, from docs/policies/NAME.md.

    structure.py TRACES FOLDER     reads the traces in TRACES, writes references-structure.*.golden.h5 to FOLDER
"""
import os
import sys

import numpy as np

from golden_file import GoldenFile, Point
from networks import over_rows, places
from selection import best, keep, newest
from trace import Trace

TRACES = ["tiny-g1", "tiny-g2", "tiny-g4"]


def step_scores(steps, window):
    """z of every step among the last `window`; the first token has no step."""
    z = np.zeros(len(steps))
    for token in range(2, len(steps)):
        last = steps[max(1, token + 1 - window):token + 1]
        z[token] = (steps[token] - last.mean()) / (last.std() + 1e-6)
    return z


def band(trace, window):
    def mean_of(low, high):
        inside = [i for i, layer in enumerate(trace.layers)
                  if low / 32 * trace.num_layers <= layer <= high / 32 * trace.num_layers]
        return np.mean([step_scores(trace.step_norm[i], window) for i in inside], axis=0)

    score = mean_of(7, 13) - mean_of(18, 25)
    return {place: score for place in places(trace)}


def lag_variance(trace, lag, tensors):
    scores = {}
    for layer in trace.layers:
        for head in range(trace.heads):
            total = np.zeros(trace.length)
            for tensor in tensors:
                rows = getattr(trace, tensor)[layer][:, head]
                for first in range(lag, trace.length, lag):
                    before, chunk = rows[first - lag:first], rows[first:first + lag]
                    low, high = before.min(axis=0), before.max(axis=0)
                    total[first:first + lag] += ((chunk - low) / (high - low)).var(axis=1) / len(tensors)
            scores[layer, head] = total
    return scores


def epikv(trace, name, budget, recent, window=64, variant="jump", lag=128, budget_of="all", score="z"):
    assert score == "band" or variant != "jump"
    tensors = "kv" if variant == "lag_kv" else "k"
    scores = band(trace, window) if variant == "jump" else lag_variance(trace, lag, tensors)
    point = Point(trace, name, budget)
    count = budget + (trace.prompt if budget_of == "generated" else 0)

    def cut(resident, seen):
        safe = list(range(trace.prompt)) + list(newest(seen, recent))
        return {place: keep(point, scores[place], held, count, safe) for place, held in resident.items()}

    return over_rows(trace, point, cut)


def sagekv(trace, name, budget, fill):
    assert fill
    point, chosen = Point(trace, name, budget), {}
    sinks, each = budget // 4, budget // (2 * trace.group)
    slide = budget - sinks - trace.group * each
    middle = np.arange(sinks, trace.prompt - slide)
    for layer in trace.layers:
        for head in range(trace.heads):
            logits = trace.k[layer][: trace.prompt, head] @ trace.q[layer][trace.prompt - 1].T
            logits = logits[:, head * trace.group:(head + 1) * trace.group]
            union = np.unique(np.concatenate([best(row, middle, each) for row in logits.T]))
            others = np.setdiff1d(middle, union)
            more = best(logits.max(axis=1), others, trace.group * each - len(union))
            chosen[layer, head] = np.concatenate([union, more])

    def cut(resident, seen):
        return {place: np.concatenate([np.arange(sinks), np.sort(chosen[place]), newest(seen, slide)]).astype(int)
                for place in resident}

    return over_rows(trace, point, cut)


def information(trace, top, shift, tau):
    """E [L, T]; the first token's entropy is that of the second."""
    entropy = trace.entropy if top == "all" else trace.entropy_top[:, (128, 256, 512).index(top)]
    if shift:
        entropy = np.concatenate([entropy[:1], entropy[:-1]])
    return (1 - trace.cos_final + tau) * entropy


def infokv(trace, name, budget, layers, window=64, kernel=9, alpha=0.9, tau=1, top=256, shift=1):
    """layers=information: entries per head by the layers' sums over the prompt, rounded down."""
    assert layers == "information"
    n = trace.prompt
    gains = information(trace, top, shift, tau)[:, :n]
    wanted = gains.sum(axis=1) / gains.sum() * budget * len(gains)
    counts = np.minimum(np.floor(wanted).astype(int), n)
    assert counts.min() > window
    point, kept, scores = Point(trace, name, budget), {}, {}
    for layer, gain, count in zip(trace.layers, gains, counts):
        shares = np.exp(gain - gain.max())
        shares /= shares.sum()
        for head in range(trace.heads):
            received = np.mean([[np.pad(trace.attention(layer, row, h, np.arange(row + 1)), (0, n - 1 - row))[: n - window]
                                 for row in range(n - window, n)]
                                for h in range(head * trace.group, (head + 1) * trace.group)], axis=(0, 1))
            pooled = np.convolve(received, np.ones(kernel) / kernel, mode="same")
            score = np.full(n, np.nan)
            score[: n - window] = alpha * pooled + (1 - alpha) * shares[: n - window]
            kept[layer, head] = keep(point, score, np.arange(n), count, newest(n, window))
            scores[layer, head] = score
    point.prompt(kept, scores)
    return point


# system, parameters, budgets
RUNS = [
    ("epikv", dict(score="band", recent=2), [195, 198]),
    ("epikv", dict(score="band", window=10, recent=1, budget_of="generated"), [3]),
    ("epikv", dict(variant="lag_kv", lag=16, recent=2), [197]),
    ("epikv", dict(variant="lag_key", lag=25, recent=1, budget_of="generated"), [4]),
    ("sagekv", dict(fill=True), [40, 97]),
    ("infokv", dict(layers="information"), [91, 120]),
    ("infokv", dict(layers="information", window=16, kernel=5, alpha=0.5, tau=0.5, top=128), [31, 100]),
    ("infokv", dict(layers="information", window=4, kernel=1, alpha=0.2, tau=0.3, top="all", shift=0), [30, 77, 150]),
]
SOURCES = {"epikv": "2606.26472", "sagekv": "2503.08879", "infokv": "2606.26875"}


def main(traces, folder):
    for trace_name in TRACES:
        trace = Trace(os.path.join(traces, trace_name + ".h5"))
        with GoldenFile(os.path.join(folder, f"references-structure.{trace_name}.golden.h5"), 0) as golden:
            for number, (system, parameters, budgets) in enumerate(RUNS):
                shown = ",".join(f"{key}={str(value).lower()}" for key, value in parameters.items())
                for budget in budgets:
                    point = globals()[system](trace, f"{budget:03}", budget, **parameters)
                    golden.add(f"{system}-{number}", f"{system}({shown})", SOURCES[system], point)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
