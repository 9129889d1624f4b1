"""TRIM-KV and DBTrimKV: a gate's log beta per token and KV head, and what falls with age."""
import numpy as np

from golden_file import Point
from networks import masked, over_rows, whole_prompt
from selection import keep, keep_pooled, newest


def draw_gate(weights, trace, gate, tied=False):
    """Weights that spread log beta over a few orders of magnitude."""
    width = 10
    outputs = trace.heads
    inputs = len(trace.input_norm[trace.layers[0]]) if gate in ("rg", "rg10") else 2 * trace.heads * trace.width
    if gate == "rg3":
        weights.draw("gate_proj.weight", (width, inputs), inputs ** -0.5)
        weights.draw("up_proj.weight", (width, inputs), inputs ** -0.5)
        weights.draw("down_proj.weight", (outputs, width), 1.5)
    else:
        weights.draw("linear1.weight", (width, inputs), 1.5 * inputs ** -0.5)
        weights.draw("linear1.bias", (width,), 0.2)
        if gate == "rg10":
            weights.draw("linear2.weight", (width + 2, width), 0.7)
            weights.draw("linear2.bias", (width + 2,), 0.2)
            weights.draw("linear3.weight", (outputs, width + 2), 1.2, shared=tied)
        else:
            weights.draw("linear2.weight", (outputs, width), 0.8)
    weights.draw("bias", (outputs,), 0.5, mean=3.5, shared=tied and gate == "rg10")


def log_beta(trace, weights, gate):
    """[T] by place."""
    act, result = weights.act("silu"), {}
    for layer in trace.layers:
        if gate in ("rg", "rg10"):
            x = trace.attention_input(layer)
        else:
            x = np.concatenate([trace.k[layer], trace.v[layer]], axis=2).reshape(trace.length, -1)
        if gate == "rg3":
            y = act(x @ weights(layer, "gate_proj.weight").T) * (x @ weights(layer, "up_proj.weight").T)
            y = y @ weights(layer, "down_proj.weight").T
        else:
            y = act(x @ weights(layer, "linear1.weight").T + weights(layer, "linear1.bias"))
            if gate == "rg10":
                y = act(y @ weights(layer, "linear2.weight").T + weights(layer, "linear2.bias"))
            y = y @ weights(layer, "linear3.weight" if gate == "rg10" else "linear2.weight").T
        y = -np.logaddexp(0, -(y + weights(layer, "bias")))
        result |= {(layer, head): y[:, head] for head in range(trace.heads)}
    return result


class Retention:
    def __init__(self, trace, lb, lookahead=1, age_offset=None, knorm_alpha=False):
        self.trace, self.lb, self.lookahead, self.knorm = trace, lb, lookahead, knorm_alpha
        self.offset = age_offset if age_offset is not None else (2 if lookahead == 1 else 3)

    def scores(self, place, seen):
        lb = self.lb[place][:seen]
        score = (seen - 1 - np.arange(seen) + self.offset) * lb
        if self.lookahead > 1:
            score = score + np.log1p(-np.exp(self.lookahead * lb)) - np.log(-np.expm1(lb))
        if self.knorm:
            score = score + np.log(np.linalg.norm(self.trace.k[place[0]][:seen, place[1]], axis=1))
        return score


def trimkv(trace, name, weights, entries, gate, every, sliding_window=0, **options):
    retention, point = Retention(trace, log_beta(trace, weights, gate), **options), Point(trace, name, entries)

    def cut(resident, seen):
        return {place: keep(point, retention.scores(place, seen), held, entries, newest(seen, sliding_window))
                if len(held) >= entries + every else held for place, held in resident.items()}

    return over_rows(trace, point, cut, retention.scores, lambda seen: newest(seen, sliding_window))


def dbtrimkv(trace, name, weights, entries, gate, every=1, scope="model", floor=0, bounds="as_code", threshold=0.0,
             **options):
    retention, point = Retention(trace, log_beta(trace, weights, gate), **options), Point(trace, name, entries)

    def cut_pool(resident, seen):
        total = sum(len(held) for held in resident.values())
        limit = len(resident) * (entries + every)
        if total < limit or (scope == "layer" and total == limit):
            return resident
        scores = {place: retention.scores(place, seen) for place in resident}
        won = keep_pooled(point, scores, resident, len(resident) * (entries - floor))
        if floor == 0:
            return won
        order = sorted(resident)
        counts = dict.fromkeys(order, 0)
        for number, place in enumerate(order):
            for entry in won[place]:
                before = bounds == "as_code" and number > 0 and entry == min(resident[place])
                counts[order[number - 1] if before else place] += 1
        return {place: keep(point, scores[place], resident[place], counts[place] + floor) for place in order}

    def cut(resident, seen):
        if threshold > 0:
            at = np.log(threshold)
            result = {}
            for place, held in resident.items():
                scores = retention.scores(place, seen)[held]
                result[place] = held[scores >= at]
                point.note_gap(scores[scores >= at], scores[scores < at])
            return result
        if scope == "model":
            return cut_pool(resident, seen)
        result = {}
        for layer in trace.layers:
            result |= cut_pool({place: held for place, held in resident.items() if place[0] == layer}, seen)
        return result

    return over_rows(trace, point, cut, retention.scores)
