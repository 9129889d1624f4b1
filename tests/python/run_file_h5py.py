"""Checks a run.h5 against the run.csv of the same replay. Used by run_file_h5py_test.cpp.

    run_file_h5py.py DOCUMENT TRACE     in a folder with run.h5 and run.csv; DOCUMENT is docs/run-file.md
"""
import contextlib
import csv
import hashlib
import io
import re
import sys

import h5py
import numpy as np

COUNTS = {"prompt_length", "decode_rows", "layers"}
TEXTS = {"trace", "sequence", "policy", "budget", "status", "damage_index_kind", "prediction_status"}


def documented_example(document):
    with open(document, encoding="utf-8") as file:
        blocks = re.findall(r"```python\n(.*?)```", file.read(), re.DOTALL)
    assert len(blocks) == 1, blocks
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(blocks[0], document, "exec"), {})
    return printed.getvalue().splitlines()


def read_rows(run):
    """Every column of /rows as a numpy array; as a pandas table where pandas is installed."""
    rows = {name: data.asstr()[:] if name in TEXTS else data[:] for name, data in run["rows"].items()}
    try:
        import pandas
    except ImportError:
        return rows
    return {name: table.to_numpy() for name, table in pandas.DataFrame(rows).items()}


def check_rows(run, table):
    rows = read_rows(run)
    assert set(rows) == set(table[0]), set(rows) ^ set(table[0])
    for name, values in rows.items():
        cells = [row[name] for row in table]
        assert len(values) == len(cells)
        if name in TEXTS:
            assert list(values) == cells, name
        elif name in COUNTS:
            assert values.dtype == np.int64 and values.tolist() == [int(cell) for cell in cells], name
        else:
            assert values.dtype == np.float64, name
            np.testing.assert_array_equal(values, [float(cell) if cell else np.nan for cell in cells], name)


def check_provenance(run, trace):
    assert run.attrs["format"] == "evictsim-run" and run.attrs["format_version"] == 1
    attributes = run["provenance"].attrs
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", attributes["evictsim_version"])
    assert attributes["command_line"].startswith("evictsim replay " + trace + " --policy ")
    assert "--seed 7" in attributes["command_line"]
    assert attributes["seed"] == 7 and attributes["complete"] == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", attributes["created"])
    inputs = run["provenance/inputs"]
    with open(trace, "rb") as file:
        assert list(inputs["checksum"].asstr()) == [hashlib.sha256(file.read()).hexdigest()]
    assert list(inputs["path"].asstr()) == [trace]
    assert len(inputs["model"].asstr()[0]) > 0
    assert list(run["policies/name"].asstr()) == ["knorm", "snapkv(window=8)", "tova"]
    assert list(run["policies/status"].asstr()) == ["ok"] * 3


def check_summary(run, table):
    """Means over sequences, and regret over budgets, from the rows."""
    summary = run["summary"]
    names = zip(summary["policy"].asstr()[:], summary["budget"].asstr()[:])
    for index, (policy, budget) in enumerate(names):
        chosen = [row for row in table if (row["policy"], row["budget"]) == (policy, budget)]
        assert summary["sequences"][index] == len(chosen)
        for name in ("output_error", "regret", "premature_evictions", "scored_entries_per_step"):
            expected = np.mean([float(row[name]) for row in chosen])
            np.testing.assert_allclose(summary[name][index], expected, rtol=1e-12)
    over = run["over_budgets"]
    for index, policy in enumerate(over["policy"].asstr()[:]):
        assert over["budgets"].asstr()[index] == "0.1,0.3"
        ratios = []
        for sequence in sorted({row["sequence"] for row in table}):
            chosen = [row for row in table if (row["policy"], row["sequence"]) == (policy, sequence)]
            ratios.append(sum(float(row["regret"]) for row in chosen) / sum(float(row["oracle_gain"]) for row in chosen))
        assert over["sequences"][index] == len(ratios)
        np.testing.assert_allclose(over["normalised_regret"][index], np.mean(ratios), rtol=1e-12)


def check_detail(run, table):
    """The arrays by layer and step hold the means of the rows."""
    checked = 0
    for row in table:
        group = run["detail/trace_0"][row["sequence"]][row["policy"]][row["budget"]]
        for name in ("retained_mass", "regret", "premature_evictions", "sink_mass", "resident_entries"):
            assert group[name].attrs["axes"] == ("layer,step" if name == "resident_entries" else "layer,head,step"), name
            np.testing.assert_allclose(group[name][:].mean(), float(row[name]), rtol=1e-6, atol=1e-7)
            checked += 1
    assert checked > 0


def check_entries(run, table):
    """The arrays by entry add up to what the rows say."""
    for row in table:
        sequence = run["detail/trace_0"][row["sequence"]]
        group = sequence[row["policy"]][row["budget"]]
        prompt = int(row["prompt_length"])
        kept = group["entry_kept"]
        assert kept.attrs["axes"] == "layer,head,entry" and kept.attrs["entries"] == prompt
        bits = np.unpackbits(kept[:], axis=-1, count=kept.attrs["entries"], bitorder="little")
        np.testing.assert_allclose(bits.sum(axis=-1).mean(), float(row["kept_entries"]), rtol=1e-12)
        for name in ("entry_lost_mass", "entry_premature"):
            assert group[name].attrs["axes"] == "layer,entry" and group[name].dtype == np.float32
        lost = group["entry_lost_mass"][:].astype(float).sum(axis=-1).mean()
        np.testing.assert_allclose(lost, 1 - float(row["retained_mass"]), atol=3e-6)
        full = sequence["entry_attention_full"]
        assert full.attrs["axes"] == "layer,head,entry" and full.shape[:1] + full.shape[2:] == group["entry_lost_mass"].shape
        np.testing.assert_allclose(full[:].astype(float).sum(axis=-1), 1, atol=3e-6)
        stored = group["stored_hbm_bytes"]
        assert stored.attrs["axes"] == "layer,step" and stored.shape == group["resident_bytes"].shape


def check(document, trace):
    with open("run.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) >= 6
    assert documented_example(document) == [
        f"{row['policy']} {row['budget']} {float(row['output_error'])}" for row in table]
    with h5py.File("run.h5", "r") as run:
        check_rows(run, table)
        check_provenance(run, trace)
        check_summary(run, table)
        check_detail(run, table)
        check_entries(run, table)


if __name__ == "__main__":
    check(sys.argv[1], sys.argv[2])
