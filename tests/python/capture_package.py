"""Does the Python package agree with the header of the capture library, install from the source tree, and record NumPy
arrays of any layout?"""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import h5py
import numpy as np

import evictsim
from evictsim import sink

ROOT = Path(__file__).resolve().parents[2]
MODEL = dict(
    model="numpy",
    engine="test",
    num_layers=1,
    num_query_heads=4,
    num_kv_heads=2,
    head_dim=8,
    hidden_size=16,
    vocab_size=50,
    rope_layout="half",
    rope_theta=1e4,
)


class Package(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.out = str(self.folder / "out")

    def test_numbers_and_structures_are_those_of_the_header(self):
        header = (ROOT / "traces/capture/evictsim_capture.h").read_text()
        code = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
        enums = [
            dict(re.findall(r"EVICTSIM_CAPTURE_(\w+) = (\d+)", body))
            for body in re.findall(r"enum \{(.*?)\}", code, re.DOTALL)
        ]
        # The last one names passes beside a sequence, which the package does not offer.
        statuses, roles, weights, _ = ({name.lower(): int(number) for name, number in enum.items()} for enum in enums)
        self.assertEqual(statuses, {name.replace(" ", "_"): number for number, name in enumerate(sink.STATUSES)})
        self.assertEqual(roles, sink.ROLES)
        self.assertEqual(weights, sink.WEIGHTS)
        kinds = {
            "const char*": ctypes.c_char_p,
            "int64_t": ctypes.c_int64,
            "int32_t": ctypes.c_int32,
            "uint32_t": ctypes.c_uint32,
            "uint64_t": ctypes.c_uint64,
            "double": ctypes.c_double,
            "const int32_t*": ctypes.POINTER(ctypes.c_int32),
        }
        for name, structure in (("rows", sink._Rows), ("counters", sink._Counters)):
            body = re.search(rf"typedef struct evictsim_capture_{name} \{{(.*?)\}}", code, re.DOTALL).group(1)
            fields = [
                (field, kinds[kind.strip()]) for kind, field in re.findall(r"^\s*(.+?) (\w+);", body, re.MULTILINE)
            ]
            self.assertEqual(fields, structure._fields_[: len(fields)])
            self.assertEqual(len(fields), len(structure._fields_))
        version = [int(re.search(rf"ABI_{part} (\d+)", code).group(1)) for part in ("MAJOR", "MINOR")]
        self.assertEqual(version[0], sink.ABI_MAJOR)
        self.assertGreaterEqual(version[1], sink.ABI_MINOR)

    def record(self, **arrays):
        with evictsim.Sink(self.out, dtype="float32") as capture:
            capture.model(**MODEL)
            capture.describe_request("r", task="t", spans=[("evidence", 1, 3)])
            capture.begin_step([evictsim.Rows("r", 1, 0, [7, 8, 9])])  # row 0 is padding
            for name, array in arrays.items():
                capture.push(array, name)
            capture.end_step()
            capture.finish_request("r")
            capture.flush()
            self.assertEqual(capture.counters()["requests"], 1)
            self.assertEqual(capture.last_loss(), "")
        self.assertEqual(
            subprocess.run(["evictsim", "trace", "verify", self.out], stdout=subprocess.DEVNULL).returncode, 0
        )
        return h5py.File(self.out + "/shard-000000.h5")["sequences/000000"]

    def test_any_layout_is_recorded_as_numpy_sees_it(self):
        generator = np.random.default_rng(1)
        q = generator.normal(size=(1, 4, 4, 8)).astype(np.float32).transpose(0, 2, 1, 3)  # heads before rows in memory
        k = generator.normal(size=(4, 2, 16)).astype(np.float32)[:, :, ::2]
        v = np.asfortranarray(generator.normal(size=(4, 2, 8)).astype(np.float16))
        found = self.record(q=q, k=k, v=v)
        np.testing.assert_array_equal(found["layer_000/q"], q[0, 1:])
        np.testing.assert_array_equal(found["layer_000/k"], k[1:])
        np.testing.assert_array_equal(found["layer_000/v"], v[1:].astype(np.float32))
        np.testing.assert_array_equal(found["spans/evidence"], [[1, 3]])

    def test_mistakes_are_errors(self):
        capture = evictsim.Sink(self.out)
        rows = [evictsim.Rows("r", 0, 0, [1])]
        with self.assertRaisesRegex(evictsim.CaptureError, "wrong order.*model record"):
            capture.begin_step(rows)
        with self.assertRaisesRegex(evictsim.CaptureError, "one line"):
            capture.model(**{**MODEL, "model": "two\nlines"})
        capture.model(**MODEL)
        capture.begin_step(rows)
        with self.assertRaisesRegex(evictsim.CaptureError, "cannot be read through DLPack"):
            capture.push([1.0, 2.0], "q")
        with self.assertRaisesRegex(evictsim.CaptureError, "invalid argument: q"):
            capture.push(np.zeros((1, 4, 9), np.float32), "q")
        with self.assertRaisesRegex(evictsim.CaptureError, "was not pushed"):
            capture.end_step()
        capture.close()
        capture.close()
        with self.assertRaisesRegex(evictsim.CaptureError, "is closed"):
            capture.flush()

    def test_a_missing_or_foreign_library_is_named(self):
        for library, text in ((str(self.folder / "none.so"), "EVICTSIM_CAPTURE_LIBRARY"),):
            with mock.patch.dict(os.environ, EVICTSIM_CAPTURE_LIBRARY=library):
                with self.assertRaisesRegex(evictsim.CaptureError, text):
                    sink._load_library()
        with mock.patch.object(sink, "ABI_MINOR", 99), self.assertRaisesRegex(evictsim.CaptureError, "one source tree"):
            sink._load_library()

    def test_installs_from_the_source_tree(self):
        source, target = self.folder / "source", self.folder / "site"
        shutil.copytree(ROOT / "traces/capture/python", source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
        installed = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--no-index",
                "--no-build-isolation",
                "--target",
                target,
                source,
            ],
            capture_output=True,
            text=True,
        )
        self.assertEqual(installed.returncode, 0, installed.stderr)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EVICTSIM")}
        environment["PYTHONPATH"] = str(target)
        script = (
            "import evictsim, importlib.metadata as m; evictsim.Sink('out').close(); print(evictsim.__file__); "
            "print([e.value for e in m.entry_points(group='vllm.general_plugins') if e.name == 'evictsim'])"
        )
        result = subprocess.run(
            [sys.executable, "-c", script], cwd=self.folder, env=environment, capture_output=True, text=True
        )
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(
            result.stdout.splitlines(), [str(target / "evictsim/__init__.py"), "['evictsim.vllm:register']"]
        )
        environment["EVICTSIM_CAPTURE_LIBRARY"] = str(self.folder / "none.so")
        refused = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--no-deps",
                "--no-index",
                "--no-build-isolation",
                "--target",
                self.folder / "other",
                source,
            ],
            env=environment,
            capture_output=True,
            text=True,
        )
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("evictsim_capture_shared", refused.stdout + refused.stderr)

    def test_version_is_that_of_the_project(self):
        project = re.search(r"project\(evictsim VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text()).group(1)
        package = re.search(
            r'^version = "(.*)"', (ROOT / "traces/capture/python/pyproject.toml").read_text(), re.MULTILINE
        )
        self.assertEqual(package.group(1), project)


if __name__ == "__main__":
    unittest.main()
