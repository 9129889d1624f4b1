"""Float64 references of the systems that retrieve, from the papers and docs/policies/.

    retrieval.py FILE      adds the groups of RUNS to FILE (layout: placements.py)
"""
import sys

import h5py
import numpy as np

from layers import GoldenTrace, largest
from placements import WIDTH, System, store
from trace import softmax


def pages_of(seen, page):
    return [np.arange(first, min(first + page, seen)) for first in range(0, seen, page)]


def bound(query, keys):
    """At least q.k of every key: sum_c max(q_c min_c, q_c max_c)."""
    return np.maximum(query * keys.min(axis=0), query * keys.max(axis=0)).sum()


class PageBounds(System):
    """Scores of pages, by the layer's exact keys."""

    def bounds(self, head, row, pages):
        keys, query = self.layer.k[head // self.layer.group], self.layer.q[head, row]
        scores = np.array([bound(query, keys[page]) for page in pages])
        for page, score in zip(pages, scores):  # the upper bound that Quest and ArkVale rest on
            assert (keys[page] @ query <= score + 1e-9).all()
        return scores

    def group_bounds(self, kv_head, row, pages, mode):
        scores = np.array([self.bounds(h, row, pages) for h in self.group(kv_head)])
        return scores.max(axis=0) if mode == "max" else scores.mean(axis=0)


class TopkPerQuery(System):
    """The newest entry and the budget - 1 others with the largest logits."""

    def __init__(self, layer, budget):
        super().__init__(layer, budget)
        self.stored[0] = self.kv_heads * self.trace.prompt * self.entry

    def sets(self, row):
        sets = [np.append(largest(self.layer.logits(h, row)[:row], self.budget - 1), row) for h in range(self.heads)]
        self.count_attended(sets)
        return sets


class Quest(PageBounds):
    def __init__(self, layer, budget, page=16, skip_layers=2, fewest_pages=3):
        super().__init__(layer, budget)
        self.page, self.places = page, max(fewest_pages, budget // page)
        self.dense = layer.index < skip_layers
        self.stored[0] = self.kv_heads * self.trace.prompt * self.entry
        if not self.dense:
            self.stored[0] += self.kv_heads * len(pages_of(self.trace.prompt, page)) * self.entry

    def sets(self, row):
        pages = pages_of(row + 1, self.page)
        sets = []
        for head in range(self.heads):
            chosen = range(len(pages))
            if not self.dense and len(pages) > self.places:
                chosen = np.append(largest(self.bounds(head, row, pages[:-1]), self.places - 1), len(pages) - 1)
            sets.append(np.concatenate([pages[i] for i in chosen]))
        self.count_attended(sets)
        if not self.dense:
            self.count(scanned_hbm=self.kv_heads * len(pages) * self.entry)
        return sets


class ArkVale(PageBounds):
    def __init__(self, layer, budget, page=32, sinks_pages=2, window_pages=2, topk=32, group="max"):
        super().__init__(layer, budget)
        self.page = min(page, max(1, budget // 4))
        self.places = budget // self.page
        self.sinks, self.window, self.mode = sinks_pages, window_pages, group
        if self.sinks + self.window + 1 > self.places:
            self.window = min(self.window, max(1, self.places // 3))
            self.sinks = min(self.sinks, (self.places - self.window) // 2)
        self.topk = min(topk, self.places - self.sinks - self.window)
        prompt = pages_of(self.trace.prompt, self.page)
        count = len(prompt)
        # By last use, least recent first.
        held = [i for i in range(count) if i < self.sinks or i >= count - (self.places - self.sinks)]
        self.held = [list(held) for _ in range(self.kv_heads)]
        full = sum(len(page) == self.page for page in prompt)
        in_hbm = sum(len(prompt[i]) for i in held)
        self.stored[0] = self.kv_heads * (in_hbm + count) * self.entry  # a digest is as large as an entry
        self.stored[1] = self.kv_heads * full * self.page * self.entry
        self.on_host = full

    def sets(self, row):
        pages = pages_of(row + 1, self.page)
        full = sum(len(page) == self.page for page in pages)
        self.count(written_host=self.kv_heads * (full - self.on_host) * self.page * self.entry)
        self.on_host = full
        sinks = list(range(min(self.sinks, len(pages))))
        window = list(range(max(len(sinks), len(pages) - self.window), len(pages)))
        others = list(range(len(sinks), window[0]))
        sets = []
        for kv_head in range(self.kv_heads):
            scores = self.group_bounds(kv_head, row, [pages[i] for i in others], self.mode) if others else []
            attended = sinks + [others[i] for i in largest(scores, self.topk)] + window
            held = self.held[kv_head]
            if pages[-1][0] == row:  # a page begun by this row takes its place before the choice is made
                always = sinks + window
                idle = [i for i in held if i not in always]
                room = self.places - len(always)
                held = idle[max(0, len(idle) - room):] + always
            missing = [i for i in attended if i not in held and pages[i][0] != row]
            leaving = [i for i in held if i not in attended]
            room = self.places - len([i for i in held if i in attended]) - len([i for i in attended if i not in held])
            self.held[kv_head] = leaving[max(0, len(leaving) - room):] + attended
            self.count(recalled_host=sum(len(pages[i]) for i in missing) * self.entry,
                       misses=sum(len(pages[i]) for i in missing),
                       hits=sum(len(pages[i]) for i in attended) - sum(len(pages[i]) for i in missing),
                       scanned_hbm=len(pages) * self.entry)  # of all, also of those attended anyway
            entries = np.concatenate([pages[i] for i in attended])
            sets += [entries] * self.layer.group
        return sets


class InfLLM(System):
    def __init__(self, layer, budget, block=128, init=128, local=4096, topk=16, representatives=4, cache_blocks=32,
                 replacement="lru", decay=0.1, relevance="one_distance"):
        super().__init__(layer, budget)
        self.block, self.init, self.local = block, init, local
        if init + local + block - 1 + cache_blocks * block > budget:
            self.block = min(block, max(1, budget // 8))
            self.init = min(init, budget // 8)
            self.local = min(local, max(1, budget // 2 - self.block))
        self.places = min(cache_blocks, (budget - self.init - self.local - (self.block - 1)) // self.block)
        self.topk = min(topk, self.places)
        self.representatives, self.replacement, self.decay, self.relevance = (representatives, replacement, decay,
                                                                             relevance)
        self.received = np.zeros((self.heads, self.trace.length))  # by every entry, from itself on
        for head in range(self.heads):
            for row in range(self.trace.prompt):
                self.received[head, : row + 1] += layer.attention(head, row)
        self.blocks = []  # [Hq, d] representatives
        prompt = self.trace.prompt
        self.form(prompt)
        self.held = list(range(len(self.blocks)))[-self.places:] if self.places else []
        self.scores = dict.fromkeys(self.held, 0.0)
        at_rest = len(self.blocks) * self.block
        in_hbm = prompt - at_rest + len(self.held) * self.block
        self.stored[0] = (self.kv_heads * in_hbm * self.entry
                          + len(self.blocks) * self.heads * self.width * WIDTH)
        self.stored[1] = self.kv_heads * at_rest * self.entry

    def form(self, seen):
        """Blocks that are full when `seen` tokens have come; the newest `local` stay out of them."""
        formed = 0
        while self.init + (len(self.blocks) + 1) * self.block <= seen - self.local:
            first = self.init + len(self.blocks) * self.block
            entries = np.arange(first, first + self.block)
            means = []
            for head in range(self.heads):
                best = entries[largest(self.received[head, entries], self.representatives)]
                keys = self.layer.k[head // self.layer.group]
                if self.relevance == "one_distance":
                    keys = self.trace.rotate(keys, -np.arange(self.trace.length))
                means.append(keys[best].mean(axis=0))
            self.blocks.append(np.array(means))
            formed += 1
        return formed

    def sets(self, row):
        seen = row + 1
        self.count(written_host=self.form(seen) * self.block * self.kv_heads * self.entry)
        queries = self.layer.q[:, row]
        if self.relevance == "one_distance":
            queries = self.trace.rotate(self.trace.rotate(queries, -row), self.local)
        relevance = [(queries * means).sum() for means in self.blocks]
        chosen = list(largest(relevance, self.topk))
        missing = [b for b in chosen if b not in self.held]
        self.count(scanned_hbm=len(self.blocks) * self.heads * self.width * WIDTH,
                   recalled_host=len(missing) * self.block * self.kv_heads * self.entry)
        outside = self.init + len(self.blocks) * self.block
        ranges = [np.arange(self.init)] + [self.init + b * self.block + np.arange(self.block) for b in chosen]
        entries = np.concatenate(ranges + [np.arange(outside, seen)])
        self.count(misses=len(missing) * self.block * self.kv_heads,
                   hits=(len(entries) - len(missing) * self.block) * self.kv_heads)
        attention = [softmax(self.layer.logits(h, row)[entries]) for h in range(self.heads)]
        self.received[:, entries] += attention
        self.replace(chosen, entries, np.sum(attention, axis=0))
        return [entries] * self.heads

    def replace(self, chosen, entries, attention):
        idle = [b for b in self.held if b not in chosen]
        if self.replacement == "lru_s":
            idle.sort(key=lambda b: (self.scores[b], b))
        idle = idle[max(0, len(idle) - (self.places - len(chosen))):]
        if self.replacement == "lru_s":
            self.scores = {b: self.decay * self.scores.get(b, 0.0) for b in idle + chosen}
            for b in chosen:
                first = self.init + b * self.block
                self.scores[b] += attention[(entries >= first) & (entries < first + self.block)].sum()
        self.held = idle + chosen


class ShadowKV(System):
    def __init__(self, layer, budget, chunk=8, rank=160, outliers=48, local=4):
        super().__init__(layer, budget)
        self.chunk = min(chunk, max(1, budget // 8))
        places = budget // self.chunk
        self.local = min(local, max(1, places // 4))
        self.outliers_count = min(outliers, places // 4)
        self.topk = places - 1 - self.local - self.outliers_count  # one for the chunk being filled
        trace = self.trace
        flat = trace.rotate(layer.k, -np.arange(trace.length)).transpose(1, 0, 2).reshape(trace.length, -1)
        axes = np.linalg.svd(flat[: trace.prompt], full_matrices=False)[2][: min(rank, flat.shape[1])]
        rebuilt = (flat @ axes.T @ axes).reshape(trace.length, self.kv_heads, self.width).transpose(1, 0, 2)
        self.rebuilt = trace.rotate(rebuilt, np.arange(trace.length))
        self.landmarks = [[] for _ in range(self.kv_heads)]
        chunks = self.distant(trace.prompt)
        self.outliers, self.buffer = [], [set() for _ in range(self.kv_heads)]
        for kv_head in range(self.kv_heads):
            lowest = []
            for c in range(chunks):
                keys = self.layer.k[kv_head, c * self.chunk:(c + 1) * self.chunk]
                mean = keys.mean(axis=0)
                lowest.append((keys @ mean / np.linalg.norm(keys, axis=1) / np.linalg.norm(mean)).min())
            self.outliers.append(set(largest(-np.array(lowest), self.outliers_count)))
        self.formed = chunks
        coded = chunks - min(chunks, self.outliers_count)
        exact = trace.prompt - coded * self.chunk
        self.stored[0] = (self.kv_heads * exact * self.entry + self.kv_heads * coded * self.width * WIDTH
                          + (chunks * self.chunk + flat.shape[1]) * len(axes) * WIDTH)  # a row covers all heads
        self.stored[1] = self.kv_heads * coded * self.chunk * self.width * WIDTH

    def distant(self, seen):
        """Full chunks that are not among the newest `local`."""
        return max(0, seen // self.chunk - self.local)

    def sets(self, row):
        seen = row + 1
        chunks = self.distant(seen)
        self.count(written_host=(chunks - self.formed) * self.chunk * self.kv_heads * self.width * WIDTH)
        self.formed = chunks
        self.coded = []
        sets = []
        for kv_head in range(self.kv_heads):
            keys = self.layer.k[kv_head]
            candidates = [c for c in range(chunks) if c not in self.outliers[kv_head]]
            marks = np.array([keys[c * self.chunk:(c + 1) * self.chunk].mean(axis=0) for c in candidates])
            scores = np.max([softmax(self.trace.scale * marks @ self.layer.q[h, row]) for h in self.group(kv_head)],
                            axis=0) if candidates else []
            chosen = [candidates[i] for i in largest(scores, self.topk)]
            missing = [c for c in chosen if c not in self.buffer[kv_head]]
            self.buffer[kv_head] = set(chosen)
            spans = [c * self.chunk + np.arange(self.chunk) for c in sorted(set(chosen) | self.outliers[kv_head])]
            entries = np.concatenate(spans + [np.arange(chunks * self.chunk, seen)])
            self.coded.append(np.concatenate([c * self.chunk + np.arange(self.chunk) for c in candidates])
                              if candidates else np.array([], dtype=int))
            self.count(recalled_host=len(missing) * self.chunk * self.width * WIDTH, misses=len(missing) * self.chunk,
                       hits=len(entries) - len(missing) * self.chunk,
                       scanned_hbm=len(candidates) * self.width * WIDTH)
            sets += [entries] * self.layer.group
        return sets

    def keys(self, head, row):
        kv_head = head // self.layer.group
        keys = self.layer.k[kv_head, : row + 1].copy()
        keys[self.coded[kv_head]] = self.rebuilt[kv_head, self.coded[kv_head]]
        return keys


class InfiniGen(System):
    def __init__(self, layer, budget, partial=0.3, alpha=4, skip_layers=1, calibration=512):
        super().__init__(layer, budget)
        self.alpha, self.dense = alpha, layer.index < skip_layers
        prompt = self.trace.prompt
        self.components = max(1, int(self.width * partial))
        self.axes = []
        for head in range(self.heads):
            queries = layer.q[head, max(0, prompt - calibration):prompt]
            keys = layer.k[head // layer.group, :prompt]
            skew = np.linalg.svd(queries, full_matrices=True)[2].T
            weight = np.abs(queries @ skew).sum(axis=0) + np.abs(keys @ skew).sum(axis=0)
            self.axes.append(skew[:, largest(weight, self.components)])
        self.stored[0 if self.dense else 1] = self.kv_heads * prompt * self.entry
        if not self.dense:
            self.stored[0] = self.heads * prompt * self.components * WIDTH

    def sets(self, row):
        if self.dense:  # such layers stay in HBM
            self.count(hits=self.kv_heads * (row + 1))
            return [np.arange(row + 1)] * self.heads
        guesses = []  # of the older entries: the newest is there anyway
        for head in range(self.heads):
            keys = self.layer.k[head // self.layer.group, :row] @ self.axes[head]
            guesses.append(self.trace.scale * keys @ (self.layer.q[head, row] @ self.axes[head]))
        counts = [(guess > guess.max() - self.alpha).sum() for guess in guesses]
        number = min(int(np.mean(counts)), self.budget - 1)
        sets = [np.append(largest(guess, number), row) for guess in guesses]
        self.count_attended(sets, lambda _, entries: entries[entries != row])
        self.count(scanned_hbm=self.heads * row * self.components * WIDTH, written_host=self.kv_heads * self.entry,
                   recalled_host=self.counts["misses"] * self.entry)
        return sets


class InfiniteKV(System):
    """With exact records; records.py has codecs."""

    def __init__(self, layer, budget, hot=256, sinks=0, scope="per_layer", recall=256, cadence=1, search="exhaustive",
                 chunk=64, score="max", value="record", positions="true", tier="host"):
        super().__init__(layer, budget)
        self.sinks, self.hot_count, self.recall = sinks, hot, recall
        if sinks + hot + recall > budget:
            self.sinks = min(sinks, budget // 4)
            self.hot_count = min(hot, max(1, (budget - self.sinks) // 2))
            self.recall = min(recall, budget - self.sinks - self.hot_count)
        self.scope, self.cadence, self.search, self.chunk = scope, cadence, search, chunk
        self.mode, self.value, self.positions, self.tier = score, value, positions, tier
        self.record_keys = layer.k  # as a search reads them
        self.readers = [range(self.heads)] if scope == "per_layer" else [self.group(g) for g in range(self.kv_heads)]
        covered = self.kv_heads if scope == "per_layer" else 1
        self.record = self.record_bytes(covered)
        self.copy = 0 if value == "record" else covered * self.entry // 2
        records = len(self.readers) * max(0, self.trace.prompt - self.hot_count - self.sinks)
        self.stored[0] = self.kv_heads * min(self.trace.prompt, self.hot_count + self.sinks) * self.entry
        self.stored[1 if tier == "host" else 2] += records * self.record
        self.stored[2] += records * self.copy
        if search == "chunked":
            chunks = -(-(self.trace.prompt - self.hot_count - self.sinks) // chunk)
            self.stored[1 if tier == "host" else 2] += chunks * self.kv_heads * self.width * WIDTH

    def record_bytes(self, covered):
        """Of a record of so many KV heads."""
        return covered * (self.entry if self.value == "record" else self.entry // 2)

    def sets(self, row):
        seen = row + 1
        cold = np.arange(self.sinks, max(self.sinks, seen - self.hot_count))
        always = np.concatenate([np.arange(self.sinks), np.arange(max(self.sinks, seen - self.hot_count), seen)])
        if len(cold) > 0:  # one token has left the window since the row before
            self.count(**{"written_" + self.tier: len(self.readers) * self.record})
            self.count(written_disk=len(self.readers) * self.copy)
        searches = (row - self.trace.prompt) % self.cadence == 0
        if searches:
            self.recalled = [np.array([], dtype=int)] * self.heads
            for readers in self.readers if len(cold) else []:
                self.search_records(readers, cold, row)
        missing = [np.unique(np.concatenate([self.recalled[h] for h in self.group(g)])) for g in range(self.kv_heads)]
        for readers in self.readers if searches else []:  # recalled entries stay until the next search
            distinct = len(np.unique(np.concatenate([self.recalled[h] for h in readers])))
            self.count(**{"recalled_" + self.tier: distinct * self.record})
            self.count(recalled_disk=distinct * self.copy)
        attended = sum(len(m) for m in missing)
        misses = attended if searches else 0
        self.count(misses=misses, hits=self.kv_heads * len(always) + attended - misses)
        return [np.sort(np.concatenate([self.recalled[h], always])) for h in range(self.heads)]

    def scores(self, readers, keys_of, row):
        """[reader, record], or [1, record] where they agree."""
        each = np.array([keys_of(h // self.layer.group) @ self.layer.q[h, row] for h in readers])
        if self.mode == "per_head":
            return each
        return (each.max(axis=0) if self.mode == "max" else each.mean(axis=0))[None]

    def search_records(self, readers, cold, row):
        k = self.record_keys
        scores = self.scores(readers, lambda g: k[g, cold], row)
        allowed = np.ones(scores.shape, dtype=bool)
        if self.search == "chunked":
            chunks = [np.arange(i, min(i + self.chunk, len(cold))) for i in range(0, len(cold), self.chunk)]
            count = -(-2 * self.recall // self.chunk) + 1
            marks = self.scores(readers, lambda g: np.array([k[g, cold[c]].mean(axis=0) for c in chunks]), row)
            allowed[:] = False
            for choice, mark in enumerate(marks):
                for c in largest(mark, count):
                    allowed[choice, chunks[c]] = True
            key_bytes = len({h // self.layer.group for h in readers}) * self.width * WIDTH
            self.count(**{"scanned_" + self.tier: len(chunks) * key_bytes})
        self.count(**{"scanned_" + self.tier: allowed.any(axis=0).sum() * self.record})
        for choice, score in enumerate(scores):
            best = cold[largest(np.where(allowed[choice], score, -np.inf), self.recall)]
            for h in (readers if len(scores) == 1 else [readers[choice]]):
                self.recalled[h] = best

    def own_keys(self, head, row):
        """At their own positions."""
        return super().keys(head, row)

    def keys(self, head, row):
        keys = self.own_keys(head, row)
        if self.positions == "true":
            return keys
        keys, recalled = keys.copy(), self.recalled[head]
        window = max(self.sinks, row + 1 - self.hot_count)
        moved = np.concatenate([np.arange(self.sinks), recalled])
        targets = window - len(moved) + np.arange(len(moved))
        keys[moved] = self.trace.rotate(keys[moved], targets - moved)
        return keys


class TierRecall(PageBounds):
    """host and disk, around `window` (the newest stay) or `knorm` (the smallest key norms of the prompt stay)."""

    def __init__(self, layer, budget, under="window", page=16, recall=4, group="max", tier="host"):
        super().__init__(layer, budget)
        self.page, self.recall, self.mode, self.tier = page, recall, group, tier
        self.newest = under == "window"
        prompt = self.trace.prompt
        if self.newest:
            self.hot = "newest"
            kept = [np.arange(prompt - budget, prompt)] * self.kv_heads
        else:
            self.hot = "kept"
            self.kept = kept = [largest(-np.linalg.norm(layer.k[g, :prompt], axis=1), budget)
                                for g in range(self.kv_heads)]
        self.cold = [np.setdiff1d(np.arange(prompt), hot) for hot in kept]
        pages = -(-(prompt - budget) // page)
        self.stored[0] = self.kv_heads * (budget + pages) * self.entry
        self.stored[1 if tier == "host" else 2] = self.kv_heads * (prompt - budget) * self.entry
        self.written = 0

    def sets(self, row):
        sets = []
        for kv_head in range(self.kv_heads):
            cold = self.cold[kv_head]
            pages = [cold[i:i + self.page] for i in range(0, len(cold), self.page)]
            scores = self.group_bounds(kv_head, row, pages, self.mode)
            back = np.concatenate([pages[i] for i in largest(scores, self.recall)])
            hot = np.setdiff1d(np.arange(row + 1), cold)
            sets += [np.sort(np.concatenate([back, hot]))] * self.layer.group
            self.count(misses=len(back), hits=len(hot), scanned_hbm=len(pages) * self.entry)
            self.count(**{"recalled_" + self.tier: len(back) * self.entry})
        self.count(**{"written_" + self.tier: self.written})
        if self.newest:  # after every row the oldest goes
            self.cold = [np.append(cold, len(cold)) for cold in self.cold]
            self.written = self.kv_heads * self.entry
        return sets


SYSTEMS = {"quest": Quest, "arkvale": ArkVale, "infllm": InfLLM, "shadowkv": ShadowKV, "infinigen": InfiniGen,
           "infinitekv": InfiniteKV, "topk_per_query": TopkPerQuery, "host": TierRecall, "disk": TierRecall}

# system, its parameters, traces, budgets
RUNS = [
    ("topk_per_query", {}, "tiny-g1 tiny-g2 tiny-g4 smollm2", "0.1"),
    ("quest", {}, "tiny-g1 tiny-g4", "0.1 0.5"),
    ("quest", dict(page=10, skip_layers=0), "tiny-g1 tiny-g2 tiny-g4", "0.3 55"),
    ("quest", dict(page=7, skip_layers=1, fewest_pages=5), "tiny-g2", "20 0.35"),
    ("quest", dict(skip_layers=0), "smollm2", "0.25"),
    ("arkvale", {}, "tiny-g2", "0.4 190"),
    ("arkvale", dict(page=8), "tiny-g1 tiny-g4", "0.3 0.5"),
    ("arkvale", dict(page=6, sinks_pages=1, window_pages=1, topk=4), "tiny-g1 tiny-g2 tiny-g4", "60 0.5"),
    ("arkvale", dict(page=9, topk=5, group="mean"), "tiny-g2 smollm2", "100"),
    ("infllm", dict(block=10, init=8, local=40, cache_blocks=6, topk=3), "tiny-g1 tiny-g2 tiny-g4", "120"),
    ("infllm", dict(block=8, init=8, local=30, cache_blocks=6, topk=3, replacement="lru_s", representatives=2),
     "tiny-g2 tiny-g4", "100"),
    ("infllm", dict(block=8, init=4, local=30, cache_blocks=6, topk=2, relevance="true"), "tiny-g2", "100"),
    ("infllm", {}, "tiny-g2", "0.5"),
    ("infllm", dict(block=16, init=16, local=64, cache_blocks=5, topk=3), "smollm2", "180"),
    ("shadowkv", dict(rank=16), "tiny-g1 tiny-g2 tiny-g4", "0.4"),
    ("shadowkv", dict(chunk=5, rank=24, outliers=4, local=2), "tiny-g2 tiny-g4", "0.3 80"),
    ("shadowkv", {}, "smollm2", "0.5"),
    ("infinigen", dict(partial=0.25), "tiny-g1 tiny-g2 tiny-g4", "0.3"),
    ("infinigen", dict(partial=0.5, alpha=2, skip_layers=0), "tiny-g2 tiny-g4", "0.5"),
    ("infinigen", {}, "tiny-g2 smollm2", "0.1"),
    ("infinigen", dict(partial=0.5, alpha=5, skip_layers=0, calibration=50), "tiny-g1", "150"),
    ("infinitekv", dict(codec="exact", hot=40, recall=30), "tiny-g1 tiny-g2 tiny-g4", "70"),
    ("infinitekv", dict(codec="exact", scope="per_kv_head", hot=30, sinks=4, recall=20, score="mean"),
     "tiny-g2 tiny-g4", "80"),
    ("infinitekv", dict(codec="exact", scope="per_kv_head", score="per_head", value="exact", tier="disk"),
     "tiny-g2", "0.3"),
    ("infinitekv", dict(codec="exact", positions="remapped", sinks=4, hot=30, recall=20), "tiny-g1 tiny-g4 smollm2",
     "60"),
    ("infinitekv", dict(codec="exact", search="chunked", chunk=7, cadence=3, hot=30, recall=10), "tiny-g2", "40"),
    ("host", dict(under="window"), "tiny-g1 tiny-g2 tiny-g4", "0.2"),
    ("host", dict(under="window", page=7, recall=3, group="mean"), "tiny-g2 smollm2", "0.3 50"),
    ("host", dict(under="knorm", page=10, recall=5), "tiny-g1 tiny-g2 tiny-g4", "0.3"),
    ("disk", dict(under="knorm", page=9, recall=2), "tiny-g2", "0.1"),
]


def arguments(parameters):
    return ",".join(f"{key}={value}" for key, value in parameters.items())


def main(path):
    with h5py.File(path, "a", libver=("v110", "v110")) as file:
        for number, (system, parameters, traces, budgets) in enumerate(RUNS):
            own = {key: value for key, value in parameters.items() if key not in ("codec", "under")}
            shown = arguments({key: value for key, value in parameters.items() if key != "under"})
            policy = f"{system}({shown})"
            if "under" in parameters:
                policy = f"{parameters['under']}@{policy}"
                own |= dict(tier=system, under=parameters["under"])
            for trace in map(GoldenTrace, traces.split()):
                for budget in budgets.split():
                    name = f"{system}-{number:02}-{trace.name}-{budget}"
                    every = 1 if "skip_layers" in SYSTEMS[system].__init__.__code__.co_varnames else 2
                    layers = trace.whole.layers[1:2] if trace.name == "smollm2" else trace.whole.layers[::every]
                    store(file, name, lambda layer, entries: SYSTEMS[system](layer, entries, **own), trace, policy,
                          budget, layers)


if __name__ == "__main__":
    main(sys.argv[1])
