"""Are the figures of `evictsim report --svg` valid vector files that show data?"""
import os
import shutil
import subprocess
import sys
import unittest
import xml.etree.ElementTree as xml

from sample_report import SampleReport, skip

SVG = "{http://www.w3.org/2000/svg}"
sample = None


def setUpModule():
    global sample
    if shutil.which("node") is None:
        skip("figures are drawn by Debian's nodejs")
    sample = SampleReport(sys.argv[1])


def marks(root):
    """Elements inside groups of marks of data."""
    groups = [group for group in root.iter(f"{SVG}g") if "mark-" in group.get("class", "") and "role-mark" in group.get("class", "")
              and "mark-group" not in group.get("class", "")]
    return sum(len([child for child in group if child.tag != f"{SVG}g"]) for group in groups)


class Figures(unittest.TestCase):
    def test_every_figure_is_valid_and_shows_marks(self):
        sample.run("report", "run.h5", "plan.h5", "--svg", "figures")
        files = sorted((sample.folder / "figures").iterdir())
        names = [file.name for file in files]
        self.assertIn("output_error_against_budget.svg", names)
        self.assertIn("layer_head_output_error.svg", names)
        self.assertIn("plan_frontier_1.svg", names)
        for file in files:
            with self.subTest(file=file.name):
                root = xml.parse(file).getroot()
                self.assertEqual(root.tag, f"{SVG}svg")
                self.assertGreater(marks(root), 0)

    def test_without_node_it_says_what_is_missing(self):
        done = subprocess.run([sample.program, "report", "run.h5", "--svg", "none"], cwd=sample.folder, capture_output=True, text=True,
                              check=False, env={**os.environ, "PATH": str(sample.folder)})
        self.assertEqual(done.returncode, 1)
        self.assertIn("nodejs", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
