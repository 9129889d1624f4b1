"""What stays: the rules of docs/policies.md that several references need."""
import numpy as np


def best(scores, entries, count):
    """The `count` of `entries` with the highest scores; of equal scores the older. `scores` by token row."""
    entries = np.sort(np.asarray(entries, int))
    order = np.argsort(-scores[entries], kind="stable")
    return np.sort(entries[order[: max(0, count)]])


def keep(point, scores, entries, count, protected=()):
    """Protected entries first, the newest of them first; then by score."""
    entries = np.asarray(entries, int)
    if len(entries) <= count:
        return np.sort(entries)
    safe = np.sort([e for e in entries if e in set(protected)])[::-1][:count].astype(int)
    others = np.setdiff1d(entries, list(protected))
    chosen = best(scores, others, count - len(safe))
    point.note_gap(scores[chosen], scores[np.setdiff1d(others, chosen)])
    return np.sort(np.concatenate([safe, chosen]))


def keep_pooled(point, scores, resident, count):
    """The best `count` of all heads together; `scores` and `resident` by place. Of equal scores the earlier place and
    the older entry stay."""
    pool = [(-scores[place][e], place, e) for place in sorted(resident) for e in sorted(resident[place])]
    pool.sort()
    won = {place: [] for place in resident}
    for _, place, entry in pool[:count]:
        won[place].append(entry)
    point.note_gap([-s for s, _, _ in pool[:count]], [-s for s, _, _ in pool[count:]])
    return {place: np.sort(np.asarray(entries, int)) for place, entries in won.items()}


def newest(seen, count):
    return range(max(0, seen - count), seen)
