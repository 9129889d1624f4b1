"""Checks a plan.h5 against the plan.csv of the same plan. Used by plan_file_h5py_test.cpp.

plan_file_h5py.py DOCUMENT     in a folder with plan.h5 and plan.csv; DOCUMENT is docs/plan.md
"""

import csv
import sys

import h5py
import numpy as np

from run_file_h5py import documented_example


def check_rows(rows, table):
    assert set(rows) == set(table[0]), set(rows) ^ set(table[0])
    for name, data in rows.items():
        cells = [row[name] for row in table]
        if h5py.check_string_dtype(data.dtype):
            assert list(data.asstr()[:]) == cells, name
        else:
            assert data.dtype == np.float64, name
            np.testing.assert_array_equal(data[:], [float(cell) if cell else np.nan for cell in cells], name)


def check_background(plan, table):
    """What lies behind the rows agrees with them."""
    course, budget = plan["over_time"], plan["kv_budget"]
    assert set(course["row"][:]) == set(range(len(table)))
    for index, row in enumerate(table):
        mine = course["row"][:] == index
        assert 1 <= mine.sum() <= 100
        assert (np.diff(course["seconds"][:][mine]) > 0).all()
        capacity = float(row["kv_capacity_tokens"]) * float(row["replicas"])
        np.testing.assert_array_equal(course["kv_capacity_tokens"][:][mine], capacity)
        assert (course["kv_tokens"][:][mine] <= capacity).all()
        assert course["seconds"][:][mine][0] == 0 and (course["running"][:][mine] >= 0).all()
        lines = budget["row"][:] == budget["of_row"][index]
        assert budget["bytes"][:][lines].sum() > 0
        assert len(set(budget["name"].asstr()[:][lines])) == lines.sum() > 3


def check(document):
    with open("plan.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["gpu"] for row in table] == ["l4", "l40s"]
    expected = [f"{row['policy']} {float(row['budget'])} {float(row['output_tokens_per_second'])}" for row in table]
    assert documented_example(document) == expected
    with h5py.File("plan.h5") as plan:
        assert plan.attrs["format"] == "evictsim-plan" and plan.attrs["format_version"] == 1
        provenance = plan["provenance"].attrs
        assert provenance["command_line"].startswith("evictsim plan --model smollm2-135m ")
        assert provenance["seed"] == 3 and provenance["complete"] == 1
        check_rows(plan["rows"], table)
        check_background(plan, table)


if __name__ == "__main__":
    check(sys.argv[1])
