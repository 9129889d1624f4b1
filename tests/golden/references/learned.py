"""References of learned systems, from the papers and authors' descriptions (docs/policies/NAME.md names them), on small
random traces that hold the layer input, with random weights.

    learned.py FOLDER     writes hidden-*.h5 and references-learned.hidden-*.golden.h5 there
"""
import os
import sys

import numpy as np

from golden_file import GoldenFile, Point
from hidden_traces import TRACES, write_trace
from networks import ACTIVATIONS, Weights, masked, over_rows, places, whole_prompt
from retention import dbtrimkv, draw_gate, trimkv
from selection import keep, keep_pooled, newest
from trace import Trace


def once(trace, name, entries, scores, counts=None, sinks=0, recent=0):
    """Each head keeps its count: first `sinks` and last `recent` entries, then the best."""
    point = Point(trace, name, entries)
    protected = list(range(min(sinks, trace.prompt))) + list(newest(trace.prompt, recent))
    kept = {place: keep(point, scores[place], np.arange(trace.prompt), counts[place] if counts else entries, protected)
            for place in places(trace)}
    point.prompt(kept, {place: masked(scores[place], protected) for place in kept})
    return point


def draw_kvp(weights, trace):
    # columns of key and value as wide as usual, that of the position narrow: positions go up to a hundred
    weights.draw("fc1.weight", (trace.heads, 9, 2 * trace.width + 1), [0.4] * (2 * trace.width) + [0.02])
    weights.draw("fc1.bias", (trace.heads, 9), 0.5)
    weights.draw("fc2.weight", (trace.heads, 1, 9), 1.0)
    weights.draw("fc2.bias", (trace.heads, 1), 0.5)


def kvp_scores(trace, weights, activation):
    act, scores = ACTIVATIONS[activation] if activation else weights.act("relu"), {}
    for layer, head in places(trace):
        x = np.concatenate([trace.k[layer][:, head], trace.v[layer][:, head], trace.positions[:, None]], axis=1)
        y = act(x @ weights(layer, "fc1.weight")[head].T + weights(layer, "fc1.bias")[head])
        scores[layer, head] = (y @ weights(layer, "fc2.weight")[head].T + weights(layer, "fc2.bias")[head])[:, 0]
    return {place: row[: trace.prompt] for place, row in scores.items()}


def kvp(trace, name, weights, entries, activation=None, sinks=4, recent=16):
    return once(trace, name, entries, kvp_scores(trace, weights, activation), sinks=sinks, recent=recent)


def chunked_kvp(trace, name, weights, share, length):
    """Every chunk keeps its share, at least 1, of the prompt's scores."""
    point, scores, kept = Point(trace, name, share), kvp_scores(trace, weights, None), {}
    for place in places(trace):
        chunks = [np.arange(i, min(i + length, trace.prompt)) for i in range(0, trace.prompt, length)]
        kept[place] = np.concatenate([keep(point, scores[place], chunk, max(1, int(len(chunk) * share)))
                                      for chunk in chunks])
    point.prompt(kept, scores)
    return point


def draw_lkv(weights, trace, reads_z):
    inputs, outputs = (len(trace.input_norm[trace.layers[0]]), trace.heads) if reads_z else (2 * trace.width, 1)
    weights.draw("embedding", (trace.heads, 5), 1.0)
    weights.draw("token.0.weight", (7, inputs), 0.4)
    weights.draw("token.0.bias", (7,), 0.3)
    weights.draw("token.2.weight", (outputs, 7), 1.0)
    weights.draw("token.2.bias", (outputs,), 1.0)
    weights.draw("budget.0.weight", (6, 5), 0.6, shared=True)
    weights.draw("budget.0.bias", (6,), 0.3, shared=True)
    weights.draw("budget.2.weight", (1, 6), 0.9, shared=True)
    weights.draw("budget.2.bias", (1,), 1.0, shared=True)


def head_budgets(trace, weights, entries, floor):
    """floor + share * (total - heads * floor), rounded by largest remainder; a head holds no more than the prompt."""
    logits = []
    for layer, head in places(trace):
        hidden = weights(layer, "budget.0.weight") @ weights(layer, "embedding")[head] + weights(layer, "budget.0.bias")
        logits.append((weights(layer, "budget.2.weight") @ ACTIVATIONS["gelu"](hidden)
                       + weights(layer, "budget.2.bias"))[0])
    share = np.exp(logits - np.max(logits))
    share /= share.sum()
    floor = min(floor, entries)
    wanted = floor + share * (len(share) * (entries - floor))
    counts = np.floor(wanted).astype(int)
    for index in np.argsort(-(wanted - counts), kind="stable")[: len(share) * entries - counts.sum()]:
        counts[index] += 1
    return dict(zip(places(trace), counts))


def lkv_scores(trace, weights, reads_z):
    scores = {}
    for layer in trace.layers:
        for head in range(trace.heads):
            x = (trace.attention_input(layer) if reads_z
                 else np.concatenate([trace.k[layer][:, head], trace.v[layer][:, head]], axis=1))
            y = ACTIVATIONS["gelu"](x @ weights(layer, "token.0.weight").T + weights(layer, "token.0.bias"))
            y = y @ weights(layer, "token.2.weight").T + weights(layer, "token.2.bias")
            scores[layer, head] = y[: trace.prompt, head if reads_z else 0]
    return scores


def lkv(trace, name, weights, entries, reads_z=False, floor=16, sinks=4, recent=32, uniform=False):
    counts = None if uniform else head_budgets(trace, weights, entries, floor)
    return once(trace, name, entries, lkv_scores(trace, weights, reads_z), counts, sinks, recent)


def key_norms(trace):
    return {(layer, head): -np.linalg.norm(trace.k[layer][: trace.prompt, head], axis=1)
            for layer, head in places(trace)}


def head_embeddings(trace, name, weights, entries, floor):
    return once(trace, name, entries, key_norms(trace), head_budgets(trace, weights, entries, floor))


def draw_kvzap(weights, trace, kind):
    width = len(trace.input_norm[trace.layers[0]])
    if kind == "linear":
        weights.draw("weight", (trace.heads, width), 0.5)
        weights.draw("bias", (trace.heads,), 0.5, mean=-5)
    else:
        weights.draw("0.weight", (11, width), 0.3)
        weights.draw("0.bias", (11,), 0.3)
        weights.draw("2.weight", (trace.heads, 11), 1.0)
        weights.draw("2.bias", (trace.heads,), 0.3, mean=-5)


def kvzap_scores(trace, weights, kind):
    """[T] by place."""
    scores = {}
    for layer in trace.layers:
        z = trace.attention_input(layer)
        if kind == "linear":
            y = z @ weights(layer, "weight").T + weights(layer, "bias")
        else:
            y = ACTIVATIONS["gelu"](z @ weights(layer, "0.weight").T + weights(layer, "0.bias"))
            y = y @ weights(layer, "2.weight").T + weights(layer, "2.bias")
        scores |= {(layer, head): y[:, head] for head in range(trace.heads)}
    return scores


def kvzap(trace, name, weights, entries, kind):
    scores = kvzap_scores(trace, weights, kind)
    return once(trace, name, entries, {place: row[: trace.prompt] for place, row in scores.items()})


def dms(trace, name, weights, threshold, window, decoding=False, kind=None):
    """`kind`: of KVzap; None: key norms."""
    scores = (kvzap_scores(trace, weights, kind) if kind else
              {(layer, head): -np.linalg.norm(trace.k[layer][:, head], axis=1) for layer, head in places(trace)})
    point = Point(trace, name, 0)

    def cut(resident, seen):
        stay = set(newest(seen, window))
        return {place: np.asarray([e for e in held if e in stay or scores[place][e] >= threshold], int)
                for place, held in resident.items()}

    every = np.concatenate([row for row in scores.values()])
    point.note_gap(every[every >= threshold], every[every < threshold])
    return over_rows(trace, point, cut, lambda place, seen: scores[place][:seen], lambda seen: newest(seen, window),
                     decoding)


def draw_fastkvzip(weights, trace):
    width, c, sinks = len(trace.input_norm[trace.layers[0]]), 6, 3
    query_heads = trace.heads * trace.group
    weights.draw("q_proj.weight", (query_heads * c, width), 0.4)
    weights.draw("q_proj.bias", (query_heads * c,), 0.3)
    weights.draw("k_proj.weight", (trace.heads * c, width), 0.4)
    weights.draw("q_norm.weight", (c,), 0.2, mean=1.2)
    weights.draw("k_norm.weight", (c,), 0.2, mean=1.2)
    weights.draw("k_base", (trace.heads, 1, sinks, c), 1.0)
    weights.draw("b", (trace.heads, 1, trace.group), 0.5)


def gate_scores(trace, weights):
    """[T] by place."""
    def rms(x, weight):
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6) * weight

    scores, rows = {}, trace.length
    for layer in trace.layers:
        z = trace.attention_input(layer)
        q = z @ weights(layer, "q_proj.weight").T + weights(layer, "q_proj.bias")
        c = len(weights(layer, "q_norm.weight"))
        q = rms(q.reshape(rows, trace.heads, trace.group, c), weights(layer, "q_norm.weight"))
        k = rms((z @ weights(layer, "k_proj.weight").T).reshape(rows, trace.heads, c), weights(layer, "k_norm.weight"))
        for head in range(trace.heads):
            logit = (q[:, head] * k[:, head, None]).sum(axis=-1) / np.sqrt(c) + weights(layer, "b")[head, 0]
            base = q[:, head] @ weights(layer, "k_base")[head, 0].T / np.sqrt(c)
            scores[layer, head] = (1 / (1 + np.exp(base - logit[..., None]).sum(axis=-1))).mean(axis=-1)
    return scores


def fastkvzip(trace, name, weights, share, sinks=4, window_ratio=0.02, layerwise=False):
    n, scores = trace.prompt, gate_scores(trace, weights)
    for place, row in scores.items():
        scores[place] = row[:n]
        row[:sinks] = 1
        row[n - int(window_ratio * n):n] = 1
    point, kept, resident = Point(trace, name, share), {}, whole_prompt(trace)
    for layers in [[layer] for layer in trace.layers] if layerwise else [trace.layers]:
        pool = {place: held for place, held in resident.items() if place[0] in layers}
        count = len(pool) * n
        kept |= keep_pooled(point, scores, pool, count - int(count * (1 - share)))
    point.prompt(kept, scores)
    return point


def fastkvzip_decoding(trace, name, weights, budget, steps, recent, sinks=4, layerwise=False):
    """The prompt is cut too; later cuts leave a head's entries times the heads, the newest of each among them."""
    scores, n = gate_scores(trace, weights), trace.prompt
    for row in scores.values():
        row[:sinks] = 1
    point = Point(trace, name, budget)

    def cut(resident, seen):
        if (seen - n) % steps != 0:
            return resident
        kept = {}
        for layers in [[layer] for layer in trace.layers] if layerwise else [trace.layers]:
            pool = {place: held for place, held in resident.items() if place[0] in layers}
            whole = len(pool) * n
            count = len(pool) * (budget if budget >= 2 else int(n * budget))
            if seen == n and budget < 2:
                count = whole - int(whole * (1 - budget))
            safe = {place: [e for e in held if e in newest(seen, recent)] for place, held in pool.items()}
            others = {place: np.setdiff1d(held, safe[place]) for place, held in pool.items()}
            won = keep_pooled(point, scores, others, count - sum(map(len, safe.values())))
            kept |= {place: np.append(won[place], safe[place]).astype(int) for place in pool}
        return kept

    return over_rows(trace, point, cut, lambda place, seen: scores[place][:n], lambda seen: newest(seen, recent))


def draw_locret(weights, trace, biases):
    inputs = (trace.query_heads + 2 * trace.heads) * trace.width
    weights.draw("fc1.weight", (9, inputs), inputs ** -0.5)
    weights.draw("fc2.weight", (trace.heads, 9), 1.0)
    if biases:
        weights.draw("fc1.bias", (9,), 0.5)
        weights.draw("fc2.bias", (trace.heads,), 0.5)


def locret(trace, name, weights, entries, chunk, stabilizers, local, biases=False):
    n, point, kept, rows = trace.prompt, Point(trace, name, entries), {}, {}
    context, count = n - local, entries - local
    for layer in trace.layers:
        x = np.concatenate([tensor.reshape(trace.length, -1) for tensor in (
            trace.before_rope(trace.q[layer]), trace.before_rope(trace.k[layer]), trace.v[layer])], axis=1)
        hidden = x @ weights(layer, "fc1.weight").T + (weights(layer, "fc1.bias") if biases else 0)
        scores = weights.act("silu")(hidden) @ weights(layer, "fc2.weight").T
        scores = scores + (weights(layer, "fc2.bias") if biases else 0)
        for head in range(trace.heads):
            held = np.arange(0)
            for first in range(0, context, chunk):
                seen = min(first + chunk, context)
                held = np.append(held, np.arange(first, seen))
                # the newest entries of the cache, which have come last
                stable = held[len(held) - min(stabilizers, len(held)):] if seen < context else []
                held = keep(point, scores[:, head], held, count, stable)
            kept[layer, head] = np.append(held, np.arange(context, n))
            rows[layer, head] = masked(scores[:n, head], range(context, n))
    point.prompt(kept, rows)
    return point


# What is stored ------------------------------------------------------------------------------------------------------


def text(name, **parameters):
    def word(value):
        return str(value).lower() if isinstance(value, bool) else str(value)

    return f"{name}({','.join(f'{key}={word(value)}' for key, value in parameters.items())})"


def write_references(folder, name, seed):
    trace = Trace(os.path.join(folder, name + ".h5"))
    budgets = {"hidden-g2": [11, 25], "hidden-g4": [5, 9], "hidden-g1": [9, 21]}[name]
    with GoldenFile(os.path.join(folder, f"references-learned.{name}.golden.h5"), seed) as golden:

        def add(system, policy, source, run, values=budgets):
            for value in values:
                golden.add(system, policy, source, run(f"{value:02}" if isinstance(value, int) else f"{value}", value))

        def weights(network, draw, *arguments, activation=None):
            made = Weights(golden, network, trace, activation)
            draw(made, trace, *arguments)
            return made

        gates = {gate: weights(gate, draw_gate, gate) for gate in ("rg", "rg2", "rg3", "rg10")}
        gates["rg10-tied"] = weights("rg10-tied", draw_gate, "rg10", True)
        gates["rg-gelu"] = weights("rg-gelu", draw_gate, "rg", activation="gelu_tanh")
        retention = [
            ("trimkv", "rg", dict(every=1)),
            ("trimkv", "rg", dict(every=4, lookahead=16)),
            ("trimkv", "rg-gelu", dict(every=3, sliding_window=5, age_offset=0)),
            ("trimkv", "rg10", dict(every=2, knorm_alpha=True)),
            ("trimkv", "rg10", dict(every=4, lookahead=5, age_offset=1)),
            ("trimkv", "rg2", dict(every=2, lookahead=1000)),
            ("trimkv", "rg3", dict(every=5)),
            ("dbtrimkv", "rg10-tied", dict()),
            ("dbtrimkv", "rg10-tied", dict(every=4, lookahead=128)),
            ("dbtrimkv", "rg10", dict(every=3, lookahead=16, floor=3, bounds="clean")),
            ("dbtrimkv", "rg10-tied", dict(every=3, lookahead=16, floor=3, bounds="as_code")),
            ("dbtrimkv", "rg", dict(every=2, scope="layer")),
            ("dbtrimkv", "rg3", dict(every=1, scope="layer", floor=2, bounds="clean", age_offset=1)),
            ("dbtrimkv", "rg2", dict(every=2, knorm_alpha=True)),
            ("dbtrimkv", "rg10", dict(threshold=0.3)),
            ("dbtrimkv", "rg", dict(threshold=0.6, lookahead=8)),
        ]
        functions = {"trimkv": trimkv, "dbtrimkv": dbtrimkv}
        for number, (system, network, options) in enumerate(retention):
            gate = network.split("-")[0]
            policy = text(system, gate=gate, weights=f"FILE:/weights/{network}", **options)
            add(f"{system}-{number:02}-{network}", policy, "2512.03324, 2605.09649; gates as ngocbh/trimkv's",
                lambda n, b: functions[system](trace, n, gates[network], b, gate, **options),
                [0] if "threshold" in options else budgets)

        agents = {None: weights("kvp", draw_kvp), "tanh": weights("kvp-tanh", draw_kvp, activation="tanh")}
        for number, (network, options) in enumerate([(None, {}), (None, dict(activation="gelu", sinks=1, recent=3)),
                                                     ("tanh", dict(sinks=2, recent=5)),
                                                     ("tanh", dict(activation="silu", sinks=0, recent=0))]):
            file = "FILE:/weights/kvp" + (f"-{network}" if network else "")
            add(f"kvp-{number}", text("kvp", weights=file, **options), "2602.10238",
                lambda n, b: kvp(trace, n, agents[network], b, **options))

        add("kvp-chunk", "chunk(kvp_agents(weights=FILE:/weights/kvp),length=8)", "2602.10238; kvpress ChunkPress",
            lambda n, share: chunked_kvp(trace, n, agents[None], share, 8), [0.4])

        source = "after 2605.06676, the reconstruction of docs/policies/lkv.md"
        tokens = {False: weights("lkv", draw_lkv, False), True: weights("lkv-z", draw_lkv, True)}
        for number, (reads_z, options) in enumerate([(False, {}), (False, dict(floor=3, sinks=1, recent=2)),
                                                     (True, dict(floor=0, sinks=2, recent=3))]):
            policy = text("lkv", weights="FILE:/weights/lkv" + ("-z" if reads_z else ""),
                          input="z" if reads_z else "kv", **options)
            add(f"lkv-{number}", policy, source, lambda n, b: lkv(trace, n, tokens[reads_z], b, reads_z, **options))
        add("lkv-uniform", text("lkv", weights="FILE:/weights/lkv", sinks=2, recent=4, allocator="uniform()"), source,
            lambda n, b: lkv(trace, n, tokens[False], b, sinks=2, recent=4, uniform=True))
        add("lkv-budgets", "knorm(allocator=head_embeddings(weights=FILE:/weights/lkv,floor=2))", source,
            lambda n, b: head_embeddings(trace, n, tokens[False], b, 2))

        surrogates = {kind: weights(f"kvzap-{kind}", draw_kvzap, kind) for kind in ("linear", "mlp")}
        for kind in surrogates:
            policy = text("kvzap", weights=f"FILE:/weights/kvzap-{kind}", kind=kind)
            add(f"kvzap-{kind}", policy, "2601.07891", lambda n, b: kvzap(trace, n, surrogates[kind], b, kind))
            for decoding in (False, True):
                options = dict(threshold=-4.8, window=6, decoding=decoding)
                add(f"dms-kvzap-{kind}-{decoding}", text("dms", **options).replace("(", f"({policy},", 1), "2601.07891",
                    lambda n, _: dms(trace, n, surrogates[kind], kind=kind, **options), [0])
        options = dict(threshold=-2.6, window=3, decoding=True)
        add("dms-knorm", text("dms", **options).replace("(", "(knorm(),", 1), "2506.05345, kvpress DMSPress",
            lambda n, _: dms(trace, n, None, **options), [0])

        gate = weights("fastkvzip", draw_fastkvzip)
        for number, options in enumerate([{}, dict(sinks=2, window_ratio=0.21), dict(layerwise=True, sinks=0)]):
            add(f"fastkvzip-{number}", text("fastkvzip", weights="FILE:/weights/fastkvzip", **options), "2601.17668",
                lambda n, share: fastkvzip(trace, n, gate, share, **options), [0.55, 0.72])
        for number, (steps, recent, options) in enumerate([(2, 3, dict(sinks=2)), (3, 2, dict(sinks=1)),
                                                           (1, 1, dict(sinks=0, layerwise=True))]):
            policy = text("fastkvzip", weights="FILE:/weights/fastkvzip", window_ratio=0, **options,
                          protection=f"recent(count={recent})", schedule=f"every(steps={steps})")
            add(f"fastkvzip-decoding-{number}", policy, "2601.17668",
                lambda n, b: fastkvzip_decoding(trace, n, gate, b, steps, recent, **options), budgets + [0.4])

        heads = {False: weights("locret", draw_locret, False),
                 True: weights("locret-tanh", draw_locret, True, activation="tanh")}
        for number, (biases, options) in enumerate([(False, dict(chunk=100, stabilizers=10, local=2)),
                                                    (False, dict(chunk=7, stabilizers=2, local=3)),
                                                    (True, dict(chunk=5, stabilizers=3, local=0)),
                                                    (True, dict(chunk=4, stabilizers=50, local=1))]):
            policy = text("locret", weights="FILE:/weights/locret" + ("-tanh" if biases else ""), **options)
            add(f"locret-{number}", policy, "2410.01805",
                lambda n, b: locret(trace, n, heads[biases], b, biases=biases, **options))


def main(folder):
    for number, name in enumerate(TRACES):
        write_trace(folder, name, 100 + number)
        write_references(folder, name, 200 + number)


if __name__ == "__main__":
    main(sys.argv[1])
