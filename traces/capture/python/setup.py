"""Puts the capture library that was built from this source tree into the wheel, so that the package finds it.

It is $EVICTSIM_CAPTURE_LIBRARY, or what `cmake --build --preset release --target evictsim_capture_shared` left.
"""

import os
import shutil
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

NAME = "libevictsim_capture.so.1"


def built_library():
    given = os.environ.get("EVICTSIM_CAPTURE_LIBRARY")
    library = Path(given) if given else Path(__file__).resolve().parents[3] / "build" / "release" / "lib" / NAME
    if not library.exists():
        raise SystemExit(
            f"evictsim: {library} does not exist; build it first: cmake --preset release && cmake --build "
            "--preset release --target evictsim_capture_shared"
        )
    return library


class BuildWithLibrary(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:
            shutil.copyfile(built_library(), Path(self.build_lib) / "evictsim" / NAME)


class BinaryDistribution(Distribution):
    def has_ext_modules(self):
        return True  # the wheel is for the machine that it was built on


setup(cmdclass={"build_py": BuildWithLibrary}, distclass=BinaryDistribution)
