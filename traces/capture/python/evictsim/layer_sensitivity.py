"""How much a transformers model's next-token distribution moves per unit of error behind each layer's output
projection; docs/damage.md."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import transformers

from evictsim.closed_loop import ClosedLoop, Replay, require_program
from evictsim.continuation import compare
from evictsim.model_facts import model_name
from evictsim.sink import CaptureError

# What `evictsim-capture sensitivity` cuts: half of the prompt, drawn anew for every KV head.
_CUT = "random(seed={},protection=sinks(count=4),protection=recent(count=16))"
_SHARE = "0.5"
_LEAST_PROMPT = 2 * (4 + 16) + 2  # half of it is more than what is always kept
_CUE = 16  # tokens of what is repeated that stand in the prompt, so that the model can know what comes


@dataclass
class Sensitivity:
    """`values` [layers of the model]: KL in nats per unit of mean squared error behind W_O; 0 for layers with a window,
    which no policy cuts."""

    values: list
    kl: list  # [probes][layers] mean KL over the probe's rows; a probe is a draw of a text
    squared_error: list  # [probes][layers] mean squared error behind W_O, and behind the norm that follows it
    attributes: dict = field(default_factory=dict)  # how it was measured

    def record(self) -> dict:
        """Attributes for Sink.model."""
        how = {"sensitivity_" + name: value for name, value in self.attributes.items()}
        return {"sensitivity": self.values, **how}

    def store(self, path):
        """Into a trace file that is there. Of a capture that is to be made give it to evictsim.capture instead."""
        try:
            import h5py
        except ImportError as error:
            raise CaptureError("storing into a trace file needs h5py: pip install h5py") from error
        path = Path(path)
        if path.is_dir() or (path.parent / "manifest.jsonl").exists():
            raise CaptureError(
                f"{path}: shards have checksums and are not changed: give the sensitivity to evictsim.capture, or "
                "store it in the single file that `evictsim trace slice` makes of one"
            )
        try:
            file = h5py.File(path, "r+")
        except OSError as error:
            raise CaptureError(f"{path}: a trace file that can be written is needed ({error})") from error
        with file:
            if file.attrs.get("format") != "evictsim-trace":
                raise CaptureError(f"{path}: is no trace file")
            if file.attrs["num_layers"] != len(self.values):
                raise CaptureError(
                    f"{path}: its model has {file.attrs['num_layers']} layers, the one measured {len(self.values)}"
                )
            group = file["model"]
            if "sensitivity" in group:
                del group["sensitivity"]
            group["sensitivity"] = np.array([self.values[layer] for layer in group["layers"]], np.float64)
            group["sensitivity"].attrs.update({name: str(value) for name, value in self.attributes.items()})


def copy_probe(tokens, length=512, rows=64):
    """(prompt, continuation) made of the token ids of any text: `length` tokens of prompt, whose last ones begin to
    repeat an earlier part, and `rows` tokens that go on repeating it, so that the model must retrieve. Needs no
    template and no tokenizer."""
    tokens, read = [int(token) for token in tokens], length - _CUE
    if rows < 1 or length < 2 * (_CUE + rows):
        raise CaptureError(f"length = {length}, rows = {rows}: must be {2 * (_CUE + max(rows, 1))} and 1 at least")
    if len(tokens) < read:
        raise CaptureError(f"tokens: a prompt of {length} tokens that repeats needs {read} tokens; {len(tokens)} given")
    first = (read - _CUE - rows) // 4
    again = tokens[first : first + _CUE + rows]
    return tokens[:read] + again[:_CUE], again[_CUE:]


def _probe(loop, draws, seed, program):
    """Of one text: (KL, squared error) by draw and layer."""
    layers = len(loop.continuation.windows)
    policies = [_CUT.format(draw + 1) for draw in range(draws)]  # 0 would stand for the replay's own seed
    measured = []
    with tempfile.TemporaryDirectory(prefix="evictsim-") as folder:
        trace = Path(folder) / "full.h5"
        loop.record(trace)
        with Replay(program, trace, folder, policies, ["--budget", _SHARE], seed) as replay:
            for row in replay.rows:
                if row["status"].startswith("failed"):
                    raise CaptureError(f"the probe {row['policy']} {row['status']}")
                errors, kept, kl = replay.layer_errors(row), replay.kept(row, loop.continuation), np.zeros(layers)
                for layer, entries in enumerate(kept):
                    if entries is not None:
                        # Nothing has changed below the layer, so attention over half of the prompt is there what the
                        # error of the full run, added before W_O, would make of it.
                        alone = [entries if other == layer else None for other in range(layers)]
                        kl[layer] = compare(loop.full, loop.run(alone), loop.continuation.tokens[0])[0]
                measured.append((kl.tolist(), [float(errors[layer]) for layer in range(layers)]))
    return measured


def measure(model, texts, *, draws=1, seed=0, program="evictsim"):
    """`texts`: (prompt, continuation) pairs of token ids. Their rows should need retrieval: facts planted and asked for
    again, or a continuation that repeats part of the prompt (copy_probe). `draws`: random halves for each text;
    `program`: the command evictsim, which draws them. Returns a Sensitivity. Costs two readings of each prompt and,
    for each draw, as many runs over the continuation as the model has layers."""
    for name, value, least in (("draws", draws, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or value < least:
            raise CaptureError(f"{name} = {value!r}: must be a whole number, {least} at least")
    require_program(program)
    texts = [tuple(text) for text in texts]
    if not texts or any(len(text) != 2 for text in texts):
        raise CaptureError("texts: must be pairs of a prompt's and its continuation's token ids, one pair at least")
    measured, loops = [], []
    for number, (prompt, tokens) in enumerate(texts):
        loop = ClosedLoop(model, prompt, tokens, f"text-{number}", least_prompt=_LEAST_PROMPT)
        measured += _probe(loop, draws, seed, program)
        loops.append((loop.text, loop.continuation.length, loop.continuation.rows))
        del loop  # and its cache
    kl, squared_error = ([list(values) for values in of_probes] for of_probes in zip(*measured))
    totals, errors = np.sum(kl, axis=0), np.sum(squared_error, axis=0)
    if not np.isfinite(totals + errors).all():
        layer = int(np.flatnonzero(~np.isfinite(totals + errors))[0])
        raise CaptureError(f"layer {layer}: its W_O is not there as floats, or the logits are no finite numbers")
    values = np.divide(totals, errors, out=np.zeros_like(totals), where=errors > 0)
    names, lengths, rows = (",".join(map(str, column)) for column in zip(*loops))
    attributes = dict(
        method="one layer cut at a time in the running model, sum of KL over sum of squared error",
        perturbation=_CUT.format("draw"),
        budget=_SHARE,
        draws=draws,
        seed=seed,
        texts=names,
        prompt_lengths=lengths,
        rows=rows,
        engine="transformers " + transformers.__version__,
        model=model_name(model),
        dtype=str(model.dtype).removeprefix("torch."),
        attention=model.config._attn_implementation,
    )
    return Sensitivity(values.tolist(), kl, squared_error, attributes)
