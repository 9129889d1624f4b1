"""Is what evictsim.verify finds under a policy what the model says under kvpress' own press, logit by logit, for
presses that cut the prompt and for presses that go on cutting while decoding?"""

import contextlib
import unittest
import warnings
from unittest import mock

import kvpress
import torch
from transformers import DynamicCache

import evictsim
import tiny_models
from evictsim import closed_loop

PROMPT, ROWS = 192, 14
SNAP = "SnapKVPress(window_size=16,kernel_size=7)"
CUT_ONCE = [
    "KnormPress()",
    SNAP,
    "StreamingLLMPress(n_sink=4)",
    "TOVAPress()",
    "KeyDiffPress()",
    "ExpectedAttentionPress()",
    "PyramidKVPress(window_size=16,kernel_size=7,beta=5)",
    "CURPress()",
    "CapPress()",
    "NonCausalAttnPress()",
    f"AdaKVPress({SNAP})",
    f"CriticalKVPress({SNAP})",
    f"CriticalAdaKVPress({SNAP})",
    f"ChunkKVPress({SNAP},chunk_length=10)",
    "BlockPress(KeyDiffPress(),block_size=32)",
]
CUT_WHILE_DECODING = [
    f"DecodingPress({base}(),compression_interval={interval},target_size=120)"
    for base in ("KnormPress", "KeyDiffPress")
    for interval in (1, 4)
]


class KvpressTruth(unittest.TestCase):
    def setUp(self):
        torch.set_num_threads(1)
        self.enterContext(torch.no_grad())
        self.enterContext(warnings.catch_warnings())
        warnings.simplefilter("ignore")

    def take(self, family, **geometry):
        self.model = tiny_models.make(family, **geometry)
        generator = torch.Generator().manual_seed(7)
        order = torch.randperm(tiny_models.GEOMETRY["vocab_size"] - 3, generator=generator) + 3  # no token twice
        self.prompt, self.tokens = order[:PROMPT], order[PROMPT : PROMPT + ROWS]

    def pressed_logits(self, press, decoding):
        """What the model itself says, a token at a time, with kvpress in its attention blocks."""
        cache, logits = DynamicCache(config=self.model.config), []
        with contextlib.ExitStack() as pressed:
            pressed.enter_context(press(self.model))
            self.model.model(self.prompt[None], past_key_values=cache)
            if not decoding:
                pressed.close()
            for place, token in enumerate(self.tokens.tolist()):
                step = dict(position_ids=torch.tensor([[PROMPT + place]]), past_key_values=cache)
                logits.append(self.model(torch.tensor([[token]]), **step).logits[0, 0])
        return torch.stack(logits)

    def verified(self, presses, **budgets):
        """[(row, logits)] of evictsim.verify, and the logits of the full cache."""
        found = []

        def keeping(full, cut, tokens):
            found.append(cut)
            self.full = full
            return compare(full, cut, tokens)

        compare = closed_loop.compare
        with mock.patch.object(closed_loop, "compare", keeping):
            policies = ["kvpress:" + press for press in presses]
            rows = evictsim.verify(self.model, self.prompt, self.tokens, policies=policies, **budgets)
        self.assertEqual([row["status"] for row in rows], ["ok"] * len(rows))
        return list(zip(rows, found, strict=True))

    def check(self, row, logits, expected):
        moved = (expected - self.full).abs().max()
        self.assertGreater(moved, 0.02)  # the cut shows
        self.assertLess((logits - expected).abs().max(), 1e-4 * moved)  # float32, in another order of sums
        log_p, log_q = (rows.double().log_softmax(-1) for rows in (self.full, expected))
        kl = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
        self.assertAlmostEqual(row["kl"], kl, delta=1e-4 * kl)
        following = self.tokens[1:, None]
        change = float((log_p[:-1].gather(-1, following) - log_q[:-1].gather(-1, following)).mean())
        self.assertAlmostEqual(row["nll_change"], change, delta=1e-5)

    def check_prompt_cuts(self, presses):
        ratios = [0.25, 0.5, 0.75]
        points = self.verified(presses, compression_ratios=ratios)
        expected = [(name, ratio) for name in presses for ratio in ratios]
        for (name, ratio), (row, logits) in zip(expected, points, strict=True):
            with self.subTest(press=name, ratio=ratio):
                self.assertEqual(row["policy"], "kvpress:" + name)
                press = eval(name, vars(kvpress))
                press.compression_ratio = ratio
                self.check(row, logits, self.pressed_logits(press, decoding=False))

    def test_presses_that_cut_the_prompt(self):
        for family, heads in (("llama", 4), ("llama", 2), ("qwen3", 1)):  # of 4 query heads each
            with self.subTest(family=family, kv_heads=heads):
                self.take(family, num_attention_heads=4, num_key_value_heads=heads)
                self.check_prompt_cuts(CUT_ONCE)

    def test_a_press_that_needs_attention_weights(self):
        self.take("llama")
        self.model.set_attn_implementation("eager")
        self.check_prompt_cuts(["ObservedAttentionPress()"])

    def test_presses_that_cut_while_decoding(self):
        self.take("llama")
        points = self.verified(CUT_WHILE_DECODING, budgets=[1])
        for name, (row, logits) in zip(CUT_WHILE_DECODING, points, strict=True):
            with self.subTest(press=name):
                self.assertGreater(row["rounds"], 1)  # what the cut changed was seen
                self.check(row, logits, self.pressed_logits(eval(name, vars(kvpress)), decoding=True))


if __name__ == "__main__":
    unittest.main()
