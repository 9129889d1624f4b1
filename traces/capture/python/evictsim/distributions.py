"""Entropy and log-probabilities of next-token distributions, computed where the logits are."""

import torch

TOPS = (128, 256, 512)


def reduce_rows(logits, next_tokens):
    """`logits` [rows, vocab], `next_tokens` [rows] the tokens that came next. Returns entropy [rows] and entropy_top
    [rows, 3] in nats, as docs/trace-format.md defines them, and the log-probability of the next tokens [rows]."""
    log_p = torch.log_softmax(logits.float(), dim=-1)
    p = log_p.exp()
    surprise = torch.where(p > 0, -p * log_p, torch.zeros_like(p))
    entropy = surprise.sum(-1)
    places = log_p.topk(min(TOPS[-1], log_p.shape[-1]), dim=-1).indices
    running = surprise.gather(-1, places).cumsum(-1)
    tops = torch.stack([running[:, min(top, running.shape[-1]) - 1] for top in TOPS], dim=-1)
    return entropy, tops, log_p.gather(-1, next_tokens[:, None])[:, 0]
