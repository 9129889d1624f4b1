"""Does evictsim.verify measure what the model says with a cache that is really cut, and evictsim.sensitivity what
docs/damage.md says; do both leave the model alone, keep what is finished, and name mistakes?"""

import csv
import itertools
import re
import signal
import subprocess
import tempfile
import unittest
import warnings
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import torch
from transformers import DynamicCache

import evictsim
import tiny_models
from evictsim import closed_loop
from transformers_behaviour import state

PROMPT, ROWS = 90, 9


def compared(full, cut, tokens):
    """Mean KL, mean change of the negative log-likelihood and agreement of two runs, from their definitions."""
    log_p, log_q = (torch.stack(list(rows)).double().log_softmax(-1) for rows in (full, cut))
    following = torch.as_tensor(tokens[1:])[:, None]
    change = (log_p[:-1].gather(1, following) - log_q[:-1].gather(1, following)).mean()
    agreement = (log_p.argmax(1) == log_q.argmax(1)).double().mean()
    return float((log_p.exp() * (log_p - log_q)).sum(1).mean()), float(change), float(agreement)


class Damage(unittest.TestCase):
    def setUp(self):
        torch.set_num_threads(1)
        self.enterContext(torch.no_grad())
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.take("llama")

    def take(self, family, **geometry):
        self.model = tiny_models.make(family, **geometry)
        if family == "gemma2":  # caps logits of attention, which sdpa cannot
            self.model.set_attn_implementation("eager")
        generator = torch.Generator().manual_seed(11)
        order = torch.randperm(tiny_models.GEOMETRY["vocab_size"] - 3, generator=generator) + 3
        self.prompt, self.tokens = order[:PROMPT].tolist(), order[PROMPT : PROMPT + ROWS].tolist()

    def verify(self, policies, **options):
        return evictsim.verify(self.model, self.prompt, self.tokens, policies=policies, **options)

    def decode(self, before=None, after=None):
        """A token at a time; the cache's layers may be changed before the first and after every step."""
        cache, logits = DynamicCache(config=self.model.config), []
        self.model.model(torch.tensor([self.prompt]), past_key_values=cache)
        for layer in cache.layers if before else ():
            before(layer)
        for place, token in enumerate(self.tokens):
            positions = torch.tensor([[PROMPT + place]])
            step = self.model(torch.tensor([[token]]), position_ids=positions, past_key_values=cache)
            logits.append(step.logits[0, 0])
            for layer in cache.layers if after else ():
                after(layer)
        return logits

    def assert_measured(self, row, logits):
        kl, change, agreement = compared(self.decode(), logits, self.tokens)
        self.assertEqual(row["status"], "ok")
        self.assertGreater(kl, 1e-4)
        self.assertAlmostEqual(row["kl"], kl, delta=1e-3 * kl)
        self.assertAlmostEqual(row["nll_change"], change, delta=1e-5)
        self.assertEqual(row["top1_agreement"], agreement)

    # What policies cost.

    def test_a_cut_prompt_is_a_cache_with_fewer_entries(self):
        count = int(PROMPT * 0.4)

        def keep_shortest_keys(layer):
            places = layer.keys.norm(dim=-1).topk(count, largest=False).indices[..., None]
            places = places.expand(-1, -1, -1, layer.keys.shape[-1])
            layer.keys, layer.values = layer.keys.gather(2, places), layer.values.gather(2, places)

        for attention in ("sdpa", "eager"):
            self.model.set_attn_implementation(attention)
            (row,) = self.verify("knorm", budgets=0.4)
            self.assert_measured(row, self.decode(before=keep_shortest_keys))
            self.assertEqual((row["rows"], row["prompt_length"], row["rounds"]), (ROWS, PROMPT, 1))

    def test_cuts_while_decoding_see_the_run_that_they_changed(self):
        budget = 24

        def keep_first_and_newest(layer):
            for name in ("keys", "values"):
                entries = getattr(layer, name)
                setattr(layer, name, torch.cat([entries[:, :, :4], entries[:, :, 4 - budget :]], dim=2))

        def keep_shortest_keys(layer):
            places = layer.keys.norm(dim=-1).topk(budget, largest=False).indices.sort().values[..., None]
            places = places.expand(-1, -1, -1, layer.keys.shape[-1])
            layer.keys, layer.values = layer.keys.gather(2, places), layer.values.gather(2, places)

        policies = ["streaming_llm", "knorm(schedule=every(steps=1))"]
        rows = self.verify(policies, budgets=budget)
        for row, cut in zip(rows, (keep_first_and_newest, keep_shortest_keys), strict=True):
            self.assert_measured(row, self.decode(before=cut, after=cut))
        self.assertEqual(rows[0]["rounds"], 1)  # positions decide: nothing to see
        self.assertGreater(rows[1]["rounds"], 1)

    def test_spans_reach_every_round(self):
        span = (40, 50)
        policy = "knorm(schedule=every(steps=1),protection=spans(kind=evidence))"
        trace = self.folder / "full.h5"
        (row,) = self.verify(policy, budgets=24, spans=[("evidence", *span)], trace=trace)
        with h5py.File(trace) as file:
            self.assertEqual(file["sequences/000000/spans/evidence"][()].tolist(), [list(span)])

        def keep_the_span_and_shortest_keys(layer):
            scores = layer.keys.norm(dim=-1).neg()
            if layer.keys.shape[2] == PROMPT:
                scores[:, :, slice(*span)] += 1e6
                self.marks[id(layer)] = None
            else:
                scores += self.marks[id(layer)]
            places = scores.topk(24).indices.sort().values
            self.marks[id(layer)] = torch.nn.functional.pad((scores.gather(2, places) > 1e5) * 1e6, (0, 1))
            places = places[..., None].expand(-1, -1, -1, layer.keys.shape[-1])
            layer.keys, layer.values = layer.keys.gather(2, places), layer.values.gather(2, places)

        self.marks = {}
        cut = keep_the_span_and_shortest_keys
        self.assert_measured(row, self.decode(before=cut, after=cut))

    def test_keeping_all_changes_nothing(self):
        for family in ("llama", "qwen3", "mistral", "gemma2"):
            self.take(family)
            for row in self.verify(["snapkv(window=8)", "h2o", "snapkv(window=8,group=none)"], budgets=1):
                self.assertLess(row["kl"], 1e-6)
                self.assertEqual((row["status"], row["top1_agreement"]), ("ok", 1))

    def test_layers_with_a_window_are_left_alone(self):
        self.take("gemma2")  # a window in every second layer
        (row,) = self.verify("knorm", budgets=0.2)
        self.assertGreater(row["kl"], 1e-4)
        self.assertEqual((row["m_000"], row["m_002"]), (0, 0))
        self.assertGreater(row["m_001"], 0)
        self.take("mistral")  # a window in all of them
        self.assertLess(self.verify("knorm", budgets=0.2)[0]["kl"], 1e-9)

    def test_the_first_layer_errs_as_a_replay_says(self):
        """Nothing below it has changed, so the replay's first order is exact there."""
        for policy in ("snapkv(window=8)", "tova", "snapkv(window=8,group=none)"):
            with tiny_models.attention_outputs(self.model) as outputs:
                (row,) = self.verify(policy, budgets=0.2)
            rows = [output[0] for output in outputs[0] if output.shape[1] == ROWS]
            error = float((rows[-1] - rows[0]).double().square().sum(-1).mean())
            self.assertAlmostEqual(row["m_000"], error, delta=1e-4 * error)

    def test_the_table_has_the_columns_of_both_loops(self):
        path, trace = self.folder / "truth.csv", self.folder / "full.h5"
        rows = self.verify(["knorm", "tova"], budgets=[0.2, 30], csv=path, trace=trace, text="words@90")
        with open(path, newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        self.assertEqual(
            [(row["policy"], row["budget"]) for row in table], list(itertools.product(("knorm", "tova"), ("0.2", "30")))
        )
        for row, cells in zip(rows, table, strict=True):
            self.assertEqual(list(cells)[:7], ["model", "text", "trace", "sequence", "policy", "budget", "rows"])
            self.assertEqual([float(cells[name]) for name in ("kl", "nll_change")], [row["kl"], row["nll_change"]])
            errors = [float(cells[f"m_{layer:03}"]) for layer in range(3)]
            self.assertAlmostEqual(sum(errors), float(cells["squared_error"]), delta=1e-6 * sum(errors))
            self.assertEqual((cells["text"], cells["trace"], cells["sequence"]), ("words@90", str(trace), "000000"))
        replayed = self.folder / "run.csv"
        command = ["evictsim", "replay", trace, "-p", "knorm,tova", "-b", "0.2,30", "-q", "--csv", replayed]
        self.assertEqual(subprocess.run(command).returncode, 0)
        with open(replayed, newline="", encoding="utf-8") as file:
            for row, again in zip(table, csv.DictReader(file), strict=True):
                same = [name for name in again if name not in ("trace", "status")]
                self.assertEqual({name: row[name] for name in same}, {name: again[name] for name in same})

    def test_finished_rows_stay(self):
        path, compare = self.folder / "truth.csv", closed_loop.compare
        with mock.patch.object(closed_loop, "compare") as stopped:
            stopped.side_effect = lambda *rows: compare(*rows) if stopped.call_count < 3 else signal.raise_signal(2)
            with self.assertRaises(KeyboardInterrupt):
                self.verify(["knorm", "tova"], budgets=[0.2, 0.5], csv=path, text="one")
        points = [("one", "knorm", "0.2"), ("one", "knorm", "0.5"), ("one", "tova", "0.2"), ("one", "tova", "0.5")]
        self.assertEqual(self.points_in(path), points[:2])
        with open(path, "a") as file:
            file.write("half a r")  # a process that was killed
        again = self.verify(["knorm", "tova"], budgets=[0.2, 0.5], csv=path, text="one")
        self.assertEqual([(row["policy"], row["budget"]) for row in again], [("tova", "0.2"), ("tova", "0.5")])
        self.verify("knorm", budgets=0.5, csv=path, text="two")
        self.assertEqual(self.points_in(path), [*points, ("two", "knorm", "0.5")])
        for other in ("a,b\r\n1,2\r\n", path.read_text().replace("m_000", "m_003")):
            path.write_text(other)
            with self.assertRaisesRegex(evictsim.CaptureError, "csv.*other columns"):
                self.verify("knorm", budgets=0.5, csv=path, text="three")

    def points_in(self, path):
        with open(path, newline="", encoding="utf-8") as file:
            return [(row["text"], row["policy"], row["budget"]) for row in csv.DictReader(file)]

    def test_what_a_mask_cannot_give_fails_and_others_go_on(self):
        rows = self.verify(["kivi", "quest", "knorm"], budgets=0.3)
        self.assertEqual([row["status"].split(":")[0] for row in rows], ["failed", "failed", "ok"])
        self.assertIn("encoded, merged, turned or recalled", rows[0]["status"])
        self.assertIsNone(rows[0]["kl"])
        (row,) = self.verify("knorm(schedule=every(steps=1))", budgets=24, most_rounds=1)
        self.assertIn("still changed after 1 rounds; most_rounds = 10 is enough", row["status"])

    # What errors of layers cost.

    def one_layer_at_a_time(self, policy):
        """(KL, squared error) by layer from their definitions: attention in float64 over a trace, its error added
        before W_O by a hook."""
        trace, dump, layers = self.folder / "probe.h5", self.folder / "probe-kept.h5", self.model.model.layers
        with evictsim.capture(self.model, trace, single_file=True, dtype="float32"):
            cache = DynamicCache(config=self.model.config)
            self.model(torch.tensor([self.prompt]), past_key_values=cache)
            full = self.model(torch.tensor([self.tokens]), past_key_values=cache).logits[0]
        command = ["evictsim", "replay", trace, "-p", policy, "-b", "0.5", "-q", "--dump", dump]
        self.assertEqual(subprocess.run(command).returncode, 0)
        seen = np.tri(PROMPT + ROWS, dtype=bool)[PROMPT:]
        kl, squared = [], []
        with h5py.File(trace) as file, h5py.File(dump) as kept:
            for index, layer in enumerate(layers):
                window = int(file["model/sliding_window"][index]) if "sliding_window" in file["model"] else 0
                rows = file[f"sequences/000000/layer_{index:03}"]
                q, k, v = (rows[name][()].astype(np.float64) for name in "qkv")
                error = np.zeros((ROWS, q.shape[1], q.shape[2]))
                for head in range(0 if window else q.shape[1]):
                    group = head // (q.shape[1] // k.shape[1])
                    logits = file.attrs["attention_scale"] * q[PROMPT:, head] @ k[:, group].T
                    cap = file.attrs["logit_softcap"]
                    weights = np.exp(cap * np.tanh(logits / cap) if cap else logits) * seen
                    stays = np.ones(PROMPT + ROWS)
                    entries = kept[f"{policy}/0.5/000000/layer_{index:03}/head_{group}/kept"][()]
                    self.assertEqual(len(entries), PROMPT // 2)
                    stays[:PROMPT] = np.isin(np.arange(PROMPT), entries)
                    full_output, cut_output = (
                        w @ v[:, group] / w.sum(1, keepdims=True) for w in (weights, weights * stays)
                    )
                    error[:, head] = cut_output - full_output
                error = torch.from_numpy(error.reshape(1, ROWS, -1)).float()
                norm = (
                    layer.post_attention_layernorm
                    if hasattr(layer, "pre_feedforward_layernorm")
                    else torch.nn.Identity()
                )

                def add_error(module, args):
                    before, after = (norm(module.forward(values)) for values in (args[0], args[0] + error))
                    squared.append(float((after - before).double().square().sum(-1).mean()))
                    return args[0] + error

                cache = DynamicCache(config=self.model.config)
                self.model.model(torch.tensor([self.prompt]), past_key_values=cache)
                handle = layer.self_attn.o_proj.register_forward_pre_hook(add_error)
                moved = self.model(torch.tensor([self.tokens]), past_key_values=cache).logits[0]
                handle.remove()
                kl.append(compared(full, moved, self.tokens)[0])
        return kl, squared

    def test_sensitivity_is_kl_over_squared_error_of_a_random_half(self):
        for family in ("llama", "qwen3", "gemma2"):
            self.take(family)
            with self.subTest(family):
                texts = [(self.prompt, self.tokens), (torch.tensor([self.prompt[::-1]]), self.tokens[::-1])]
                found = evictsim.sensitivity(self.model, texts, draws=2, seed=0)
                self.assertEqual((len(found.kl), len(found.squared_error)), (4, 4))
                for draw in range(2):
                    policy = f"random(seed={draw + 1},protection=sinks(count=4),protection=recent(count=16))"
                    kl, squared = self.one_layer_at_a_time(policy)
                    np.testing.assert_allclose(found.squared_error[draw], squared, rtol=1e-3)
                    np.testing.assert_allclose(found.kl[draw], kl, rtol=1e-3, atol=1e-10)
                totals, errors = np.sum(found.kl, axis=0), np.sum(found.squared_error, axis=0)
                cut = errors > 0
                self.assertEqual(cut.tolist(), [family != "gemma2", True, family != "gemma2"])
                np.testing.assert_allclose(np.array(found.values)[cut], totals[cut] / errors[cut])
                self.assertTrue((np.array(found.values)[~cut] == 0).all())

    def test_sensitivity_becomes_part_of_a_trace(self):
        before = state(self.model)
        found = evictsim.sensitivity(self.model, [evictsim.copy_probe(self.prompt, 80, 20)])
        self.assertEqual(state(self.model), before)
        with evictsim.capture(self.model, self.folder / "out", sensitivity=found, layers=[0, 2]):
            self.model(torch.tensor([self.prompt]))
        with evictsim.capture(self.model, self.folder / "one.h5", single_file=True, layers=[1]):
            self.model(torch.tensor([self.prompt]))
        found.store(self.folder / "one.h5")
        found.store(self.folder / "one.h5")  # again, in place of the first
        shard = self.folder / "out/shard-000000.h5"
        for path, layers in ((shard, [0, 2]), (self.folder / "one.h5", [1])):
            with h5py.File(path) as file:
                stored = file["model/sensitivity"]
                np.testing.assert_array_equal(stored, [found.values[layer] for layer in layers])
                attributes = {name: str(value) for name, value in found.attributes.items()}
                self.assertEqual(dict(stored.attrs), attributes)
                self.assertEqual([attributes[name] for name in ("rows", "prompt_lengths", "draws")], ["20", "80", "1"])
            given = path.parent if path == shard else path
            self.assertEqual(
                subprocess.run(["evictsim", "trace", "verify", given], stdout=subprocess.DEVNULL).returncode, 0
            )
        for path, text in (
            (self.folder / "out", "shards have checksums"),
            (shard, "shards have checksums"),
            (self.folder / "none.h5", "a trace file that can be written"),
        ):
            with self.assertRaisesRegex(evictsim.CaptureError, text):
                found.store(path)
        self.take("llama", num_hidden_layers=2)
        with self.assertRaisesRegex(evictsim.CaptureError, "3 layers, the one measured 2"):
            evictsim.sensitivity(self.model, [(self.prompt, self.tokens)]).store(self.folder / "one.h5")

    def test_documented_lines_run(self):
        text = (Path(__file__).resolve().parents[2] / "docs/capture.md").read_text()
        (block,) = re.findall(r"<!-- run with a model and tokens -->\n```python\n(.*?)```", text, re.DOTALL)
        with evictsim.capture(self.model, self.folder / "trace.h5", single_file=True):
            self.model(torch.tensor([self.prompt]))
        for name in ("truth.csv", "trace.h5", "out/"):
            self.assertEqual(block.count(f'"{name}"'), 1)
            block = block.replace(f'"{name}"', f'"{self.folder}/{name}"')
        given = dict(model=self.model, tokens=list(range(3, 403)), inputs={"input_ids": torch.tensor([self.prompt])})
        exec(compile(block, "docs/capture.md", "exec"), given)
        self.assertEqual(len(self.points_in(self.folder / "truth.csv")), 4)
        for path in ("trace.h5", "out/shard-000000.h5"):
            with h5py.File(self.folder / path) as file:
                np.testing.assert_array_equal(file["model/sensitivity"], given["sensitivity"].values)

    def test_a_copy_repeats_what_stands_in_the_prompt(self):
        tokens = list(range(1000))
        prompt, continuation = evictsim.copy_probe(tokens, length=200, rows=50)
        self.assertEqual((len(prompt), len(continuation)), (200, 50))
        self.assertEqual(prompt[:184], tokens[:184])
        repeated = prompt[184:] + continuation
        self.assertEqual(repeated, list(range(repeated[0], repeated[0] + 66)))
        self.assertLess(repeated[-1], 184 - 66)
        for given, text in (
            ((tokens, 100, 50), "length = 100, rows = 50.*132"),
            ((tokens[:100], 200, 50), "100 given"),
        ):
            with self.assertRaisesRegex(evictsim.CaptureError, text):
                evictsim.copy_probe(*given)

    def test_mistakes_are_named_and_the_model_is_left_as_it_was(self):
        before = state(self.model)
        replay = dict(policies="knorm", budgets=0.5)
        for changes, text in (
            (dict(budgets=()), "budgets or compression_ratios"),
            (dict(policies=[None]), "policies: must be names"),
            (dict(policies="nosuch"), "nosuch"),
            (dict(budgets=-1), "budget"),
            (dict(most_rounds=0), "most_rounds = 0"),
            (dict(csv="no/folder/truth.csv"), "csv = .*there is no folder no/folder"),
            (dict(program="no-such-command"), "program = 'no-such-command'.*evictsim_cli"),
            (dict(prompt=[]), r"prompt: must be the token ids"),
            (dict(continuation=[[1, 2], [3, 4]]), r"continuation: must be the token ids.*\(2, 2\)"),
            (dict(continuation=[1.5]), "continuation: .*float32"),
            (dict(continuation=[640]), "continuation: token ids must lie below the vocabulary's 640"),
            (dict(prompt=[1] * 510), "510 \\+ 9 tokens; the model's context holds 512"),
        ):
            given = {"prompt": self.prompt, "continuation": self.tokens, **replay, **changes}
            with self.subTest(text), self.assertRaisesRegex(evictsim.CaptureError, text):
                evictsim.verify(self.model, **given)
            self.assertEqual(state(self.model), before)
        self.verify(["knorm", "tova"], budgets=0.5)
        self.assertEqual(state(self.model), before)
        self.model.train()
        with self.assertRaisesRegex(evictsim.CaptureError, "training mode"):
            self.verify("knorm", budgets=0.5)
        self.model.eval().config._attn_implementation = "flex_attention"
        with self.assertRaisesRegex(evictsim.CaptureError, "'flex_attention' takes no mask per head.*sdpa"):
            self.verify("knorm", budgets=0.5)
        self.model.config._attn_implementation = "sdpa"
        text = (self.prompt, self.tokens)
        for given, options, said in (
            ([text], dict(draws=0), "draws = 0"),
            ([text], dict(seed=-1), "seed = -1"),
            ([], {}, "one pair at least"),
            ([text[:1]], {}, "pairs of a prompt"),
            ([(self.prompt[:20], self.tokens)], {}, "prompt: .*42 at least"),
            ([text], dict(program="no-such-command"), "no-such-command"),
        ):
            with self.subTest(said), self.assertRaisesRegex(evictsim.CaptureError, said):
                evictsim.sensitivity(self.model, given, **options)
            self.assertEqual(state(self.model), before)


if __name__ == "__main__":
    unittest.main()
