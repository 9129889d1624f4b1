"""What a transformers model really loses when policies cut its cache: the continuation run again with every layer's
attention over what is kept, beside what a replay of the same run says; docs/damage.md."""

import csv as csv_format
import math
import shutil
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from evictsim.continuation import Continuation, compare, replaced_attention
from evictsim.model_facts import model_name
from evictsim.sink import CaptureError
from evictsim.transformers import Capture

# In this order, before the other columns of the replay's table, the squared errors of layers, and `rounds`.
_COLUMNS = "model text trace sequence policy budget rows kl nll_change top1_agreement seconds prompt_length".split()


def require_program(program):
    if shutil.which(program) is None:
        raise CaptureError(
            f"program = {program!r}: there is no such command. Build it (cmake --build --preset release --target "
            "evictsim_cli) and give its path, or put its folder into PATH"
        )


class Replay:
    """One call of `evictsim replay` on a trace of one sequence: its table, and which entries every point keeps."""

    def __init__(self, program, trace, folder, policies, budget_options, seed):
        try:
            import h5py
        except ImportError as error:
            raise CaptureError("reading what policies keep needs h5py: pip install h5py") from error
        names = {name: Path(folder) / name for name in ("open.csv", "open.h5", "kept.h5")}
        command = [program, "replay", str(trace), "--quiet", "--seed", str(seed), "--per", "layer"]
        command += ["--csv", names["open.csv"], "-o", names["open.h5"], "--dump", names["kept.h5"], *budget_options]
        for policy in policies:
            command += ["--policy", policy]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = [line for line in done.stderr.splitlines() if line]
        if done.returncode not in (0, 1) or not names["open.csv"].exists():
            raise CaptureError(f"evictsim replay: {' '.join(said) or f'ended with status {done.returncode}'}")
        for line in said:
            warnings.warn(f"evictsim replay: {line}", RuntimeWarning, stacklevel=4)
        with open(names["open.csv"], newline="", encoding="utf-8") as file:
            self.rows = list(csv_format.DictReader(file))
        self._detail, self._dump = h5py.File(names["open.h5"]), h5py.File(names["kept.h5"])

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._detail.close()
        self._dump.close()

    def _point(self, row):
        return f"{row['policy'].replace('/', '|')}/{row['budget']}"

    def layer_errors(self, row):
        """{layer: mean squared error behind W_O}."""
        sequence = self._detail[f"detail/trace_0/{row['sequence']}"]
        return dict(zip(sequence["layers"], sequence[f"{self._point(row)}/squared_error"]))

    def attends_elsewhere(self, row):
        """Whether rows attend to what the dump cannot say: recalled, encoded, merged or turned entries."""
        return ",placement=" in self._dump[self._point(row)].parent.attrs["expansion"]

    def cuts_while_decoding(self, row):
        return "rows" in self._dump[f"{self._point(row)}/{row['sequence']}"]

    def kept(self, row, continuation):
        """Per layer the entries that each row of the continuation sees, its own and later ones included: truth values
        [heads, 1 or rows, entries]. None for a layer with a window, which is never cut."""
        length, rows = continuation.length, continuation.rows
        sequence = self._dump[f"{self._point(row)}/{row['sequence']}"]
        layers = []
        for layer, window in enumerate(continuation.windows):
            group = sequence[f"layer_{layer:03}"]
            heads = [group[f"head_{head}"] for head in range(len(group))]
            if window:
                layers.append(None)
                continue
            kept = np.zeros((len(heads), rows if "resident" in heads[0] else 1, length + rows), bool)
            kept[:, :, length:] = True
            for place, head in enumerate(heads):
                kept[place, 0, head["kept"][()]] = True
                if "resident" in head:  # after each row's cut; the next row sees that
                    resident = head["resident"][:-1] == 1
                    for later in range(1, rows):
                        kept[place, later, : length + later] = resident[later - 1, : length + later]
            layers.append(torch.from_numpy(kept))
        return layers


class ClosedLoop:
    """A text in a model, `full` the logits of its continuation with the whole cache."""

    def __init__(self, model, prompt, tokens, text, spans=(), least_prompt=1):
        self.continuation = Continuation(model, prompt, tokens, least_prompt)
        self.text, self.model_name, self._spans = text, model_name(model), list(spans)
        self.full = self.continuation.logits()

    def _replacements(self, kept):
        attentions = self.continuation.modules.attentions
        return {
            attentions[layer]: self.continuation.attention_over(entries)
            for layer, entries in enumerate(kept)
            if entries is not None
        }

    def run(self, kept):
        """The continuation's logits, with attention over what is kept: per layer, None for all of it."""
        with replaced_attention(self.continuation.model, self._replacements(kept)):
            return self.continuation.logits()

    def record(self, path, kept=()):
        """The same, from the prompt on, into a trace file."""
        model = self.continuation.model
        name = str(self.continuation.modules.attentions[0].o_proj.weight.dtype).removeprefix("torch.")
        dtype = name if name in ("float16", "bfloat16") else "float32"
        with Capture(model, path, single_file=True, dtype=dtype, channels="all", x=True) as capture:
            capture.next_requests([self.text], spans=[self._spans])
            cache = self.continuation.read_prompt()
            with replaced_attention(model, self._replacements(kept)):
                return self.continuation.logits(cache)

    def run_with_feedback(self, kept, replay, most_rounds):
        """For policies that cut while decoding: rows of the run that they have cut choose what they keep. What a row
        sees depends on earlier rows only, so every round gets one more row right at least, and a round that changes
        nothing is the run with the policy inside. `replay`: from a trace to what is kept. Returns logits and rounds."""
        with tempfile.TemporaryDirectory(prefix="evictsim-") as folder:
            for number in range(1, most_rounds + 1):
                trace = Path(folder) / f"{number}.h5"
                logits = self.record(trace, kept)
                found = replay(trace)
                trace.unlink()
                if all(old is None or torch.equal(old, new) for old, new in zip(kept, found)):
                    return logits, number
                kept = found
        raise CaptureError(
            f"what is kept still changed after {most_rounds} rounds; most_rounds = {self.continuation.rows + 1} is "
            "enough for every policy that does not look ahead"
        )


class _TruthFile:
    """Rows of a table, each on disk as soon as it is there; a file that has some is gone on with."""

    def __init__(self, path):
        self._path = Path(path) if path is not None else None
        self._names, self._known = None, set()
        if self._path is not None and not self._path.parent.is_dir():
            raise CaptureError(f"csv = {str(self._path)!r}: there is no folder {self._path.parent}; make it first")
        if self._path is not None and self._path.exists():
            whole = self._path.read_bytes().rfind(b"\n") + 1  # what a killed process left of a row goes
            with open(self._path, "r+b") as file:
                file.truncate(whole)
            with open(self._path, newline="", encoding="utf-8") as file:
                reader = csv_format.DictReader(file)
                self._names = reader.fieldnames
                self._known = {self._point(row) for row in reader}
        if self._names is not None and list(self._names[: len(_COLUMNS)]) != _COLUMNS:
            raise self._other_columns()

    def _other_columns(self):
        return CaptureError(f"csv = {str(self._path)!r}: the file has other columns; give a new one")

    @staticmethod
    def _point(row):
        return tuple(row.get(name) for name in ("model", "text", "policy", "budget"))

    def has(self, row):
        return self._point(row) in self._known

    def append(self, row):
        if self._path is None:
            return
        is_new = self._names is None
        if is_new:
            self._names = list(row)
        elif self._names != list(row):
            raise self._other_columns()
        with open(self._path, "a", newline="", encoding="utf-8") as file:
            writer = csv_format.writer(file, lineterminator="\r\n")
            if is_new:
                writer.writerow(self._names)
            writer.writerow([_cell(value) for value in row.values()])


def _cell(value):
    if value is None or isinstance(value, float) and math.isnan(value):
        return ""
    return repr(value) if isinstance(value, float) else value


def _listed(parameter, values):
    listed = [values] if isinstance(values, (str, int, float)) else list(values)
    if any(not isinstance(value, (str, int, float)) or isinstance(value, bool) for value in listed):
        raise CaptureError(f"{parameter}: must be names or numbers, one or a list of them")
    return [str(value) for value in listed]


def verify(
    model,
    prompt,
    continuation,
    *,
    policies,
    budgets=(),
    compression_ratios=(),
    csv=None,
    text="prompt",
    trace=None,
    spans=(),
    seed=0,
    most_rounds=None,
    program="evictsim",
):
    """Runs the continuation under every policy and budget. Returns the new rows (dicts), in the order of run.csv.

    - `prompt`, `continuation`: token ids; the latter is given to the model, whatever it would say itself,
    - `policies`, `budgets`, `compression_ratios`: as `evictsim replay` takes them,
    - `csv`: a file to which each row is appended as soon as it is there; rows that it has are not run again,
    - `text`: the text's name, the same in all its rows,
    - `trace`: keep the trace of the run with the full cache here,
    - `spans`: of the prompt, (kind, first token, end token), for policies that need them,
    - `most_rounds`: of a policy that cuts while decoding; rows + 1 unless given,
    - `program`: the command evictsim.
    """
    policies = _listed("policies", policies)
    budget_options = [word for value in _listed("budgets", budgets) for word in ("--budget", value)]
    for value in _listed("compression_ratios", compression_ratios):
        budget_options += ["--compression-ratio", value]
    if not policies or not budget_options:
        raise CaptureError("policies, and budgets or compression_ratios: must name one at least")
    if most_rounds is not None and (not isinstance(most_rounds, int) or most_rounds < 1):
        raise CaptureError(f"most_rounds = {most_rounds!r}: must be a whole number, 1 at least")
    require_program(program)
    table = _TruthFile(csv)
    loop = ClosedLoop(model, prompt, continuation, text, spans)
    most_rounds = loop.continuation.rows + 1 if most_rounds is None else most_rounds
    rows = []
    with tempfile.TemporaryDirectory(prefix="evictsim-") as folder:
        path = Path(folder) / "full.h5" if trace is None else Path(trace)
        loop.record(path)
        with Replay(program, path, folder, policies, budget_options, seed) as replay:
            for point in replay.rows:
                if table.has({**point, "model": loop.model_name, "text": text}):
                    continue
                row = _measure(loop, replay, point, most_rounds, program, seed)
                row["trace"] = "" if trace is None else str(trace)
                if trace is None:
                    row["sequence"] = text
                table.append(row)
                rows.append(row)
    return rows


def _measure(loop, replay, point, most_rounds, program, seed):
    """The row of one policy and budget; `point` is the replay's."""
    values = dict.fromkeys(("kl", "nll_change", "top1_agreement", "rounds"))
    status, start = point["status"] if point["status"].startswith("failed") else "ok", time.perf_counter()
    if status == "ok" and replay.attends_elsewhere(point):
        status = (
            "failed: rows attend to entries that are encoded, merged, turned or recalled, which a mask over the "
            "model's own cannot give; evictsim-capture verify may be able to run it"
        )
    errors = {}
    if status == "ok":
        errors = replay.layer_errors(point)
        try:
            logits, values["rounds"] = _run(loop, replay, point, most_rounds, program, seed)
            tokens = loop.continuation.tokens[0]
            values["kl"], values["nll_change"], values["top1_agreement"] = compare(loop.full, logits, tokens)
            if not math.isfinite(values["kl"]):
                status = "failed: the model's distributions are not finite numbers"
        except CaptureError as error:
            status = f"failed: {error}"
    values.update(
        model=loop.model_name,
        text=loop.text,
        rows=loop.continuation.rows,
        seconds=time.perf_counter() - start,
        prompt_length=loop.continuation.length,
    )
    row = {column: values[column] if column in values else point.get(column, "") for column in _COLUMNS}
    row.update({column: value for column, value in point.items() if column not in row})
    row["status"] = status
    row.update({f"m_{layer:03}": float(errors.get(layer, math.nan)) for layer in range(len(loop.continuation.windows))})
    row["rounds"] = values["rounds"]
    return row


def _run(loop, replay, point, most_rounds, program, seed):
    """Logits of the point's continuation, and after how many rounds."""
    kept = replay.kept(point, loop.continuation)
    if not replay.cuts_while_decoding(point):
        return loop.run(kept), 1

    def again(trace):
        with tempfile.TemporaryDirectory(prefix="evictsim-") as folder:
            with Replay(program, trace, folder, [point["policy"]], ["--budget", point["budget"]], seed) as repeated:
                return repeated.kept(repeated.rows[0], loop.continuation)

    return loop.run_with_feedback(kept, again, most_rounds)
