"""Build fleet and its C++ core.

Without a C++17 compiler (or without pybind11) everything but the tables is installed, with a warning;
``FLEET_REQUIRE_CORE=1`` makes that an error. Nothing is built for the machine at hand: SIMD is chosen at run time.
"""

from __future__ import annotations

import os
import re
import runpy
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.extension import Extension

ROOT = Path(__file__).resolve().parent
CORE = Path("fleet/parameter_server/core")
SOURCES = runpy.run_path(str(ROOT / "fleet/parameter_server/fingerprint.py"))["of_sources"](str(ROOT / CORE))
REQUIRE_CORE = os.environ.get("FLEET_REQUIRE_CORE", "") == "1"

# -ffp-contract=off: no FMA, so that every SIMD level gives the same bits. The other two only allow vectors where nobody reads
# errno or floating-point traps; neither changes a result (this is not -ffast-math).
FLAGS = ["-O3", "-g0", "-Wall", "-Wextra", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-pthread"]


def version() -> str:
    """Read the version without importing fleet."""
    found = re.search(r'^__version__ = "([^"]+)"', (ROOT / "fleet/__init__.py").read_text(), re.M)
    assert found, "fleet/__init__.py has no __version__"
    return found.group(1)


def core_extension() -> list[Extension]:
    """Describe the extension; an empty list if pybind11 is missing and the core is not required."""
    try:
        from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
    except ImportError:
        if REQUIRE_CORE:
            raise
        warn("pybind11 is not installed")
        return []
    ParallelCompile(default=os.cpu_count() or 1).install()  # one compiler per core: half the time
    sources = sorted(str(path) for path in (ROOT / CORE).glob("*.cc"))
    headers = sorted(str(path) for path in (ROOT / CORE).rglob("*.h"))
    return [
        Pybind11Extension(
            "fleet.parameter_server._core",
            [os.path.relpath(source, ROOT) for source in sources],
            depends=[os.path.relpath(header, ROOT) for header in headers],
            cxx_std=17,
            define_macros=[("FLEET_SOURCES", f'"{SOURCES}"')],  # native.load() compares
            extra_compile_args=FLAGS,
            extra_link_args=["-pthread"],
        )
    ]


def warn(reason: str) -> None:
    line = "*" * 100
    print(
        f"\n{line}\nWARNING: fleet's parameter-server core was NOT built: {reason}.\n"
        "Everything else is installed; the first use of a table will say that it is missing.\n"
        "To build it: install a C++17 compiler and the Python headers (Debian: apt-get install g++ python3-dev),\n"
        f"then run `make build` in the source tree.\n{line}\n",
        file=sys.stderr,
    )


class BuildCore(build_ext):
    """Builds the core; a failure is a warning unless FLEET_REQUIRE_CORE=1."""

    def run(self) -> None:
        built = [Path(self.get_ext_fullpath(extension.name)) for extension in self.extensions]
        if any(path.exists() and SOURCES.encode() not in path.read_bytes() for path in built):
            self.force = True  # built from other sources, whatever their times say
        try:
            super().run()
        except Exception as error:  # whatever a compiler can do wrong, the rest of fleet installs
            if REQUIRE_CORE:
                raise
            warn(str(error) or type(error).__name__)
            self.extensions = []  # what is not there is not copied


setup(
    name="fleet-paddle",
    version=version(),
    description="A single-machine PaddlePaddle script as a job of many processes, in ten lines",
    license="Apache-2.0",
    packages=find_packages(include=["fleet", "fleet.*"]),
    package_data={"fleet": ["py.typed"], "fleet.parameter_server": ["_core.pyi"]},
    python_requires=">=3.10",
    install_requires=["numpy>=1.23", "pyyaml>=6", "cloudpickle>=3,<4", "tqdm>=4.62,<5"],
    extras_require={
        "cpu": ["paddlepaddle>=2.6.2,<4"],
        "gpu": ["paddlepaddle-gpu==2.6.2", "numpy<2", "protobuf<5"],
        "parquet": ["pyarrow>=14"],
        "joblib": ["joblib>=1.4"],
        "dask": ["dask>=2024.8", "distributed>=2024.8"],
        "ray": ["ray>=2.40"],
        "images": ["pillow>=10"],
        "text": ["tokenizers>=0.15", "sacrebleu>=2.4"],  # of examples/bert and examples/transformer
        "tensorboard": ["tensorboard>=2.10,<3"],
        "visualdl": ["visualdl>=2.5,<3"],
        "mlflow": ["mlflow>=2.8,<4"],
        "test": [
            "pytest>=8", "pytest-timeout", "pytest-xdist>=3,<4", "hypothesis", "ruff", "mypy", "types-PyYAML", "safetensors",
            "pybind11>=2.12,<4", "pyarrow>=14", "joblib>=1.4", "pillow>=10", "tokenizers>=0.15", "sacrebleu>=2.4",
            "tensorboard>=2.10,<3",
        ],  # fmt: skip
        "bench": [],  # benchmarks make their rivals' environments themselves
    },
    ext_modules=core_extension(),
    cmdclass={"build_ext": BuildCore},
)
