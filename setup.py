"""Builds qnumpy._core; pyproject.toml has everything else about the package.

QNUMPY_WERROR=1    warnings are errors (CI)
QNUMPY_SANITIZE=1  AddressSanitizer and UndefinedBehaviorSanitizer (CI)
QNUMPY_OBJECTS=DIR the objects of the kernels, which know no Python, are kept there, and used where they are there
                   already: one compilation of the same sources for several interpreters (CI)
"""

import os
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from glob import glob

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class ParallelBuild(build_ext):
    """Compiles the sources in parallel, one on each CPU; setuptools parallelizes extensions only."""

    def build_extensions(self) -> None:
        require_compiler(self.compiler.compiler_so[0])
        compile_files, kept = self.compiler.compile, os.environ.get("QNUMPY_OBJECTS")

        def compile_one(source: str, **options) -> list[str]:
            if kept and source.startswith("csrc/kernels/"):
                options["output_dir"] = kept
                names = self.compiler.object_filenames([source], output_dir=kept)
                if all(map(os.path.exists, names)):
                    return names
            return compile_files([source], **options)

        def compile_each(sources: list[str], **options) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = pool.map(lambda source: compile_one(source, **options), sources)
                return [name for names in objects for name in names]

        self.compiler.compile = compile_each
        super().build_extensions()


def require_compiler(command: str) -> None:
    """Stop with one sentence where the machine cannot compile an extension."""
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    if shutil.which(command) is None:
        fault = f"a C compiler (GCC 11, clang 14, or later) must be installed; got no command {command}"
    elif not os.path.exists(header):
        fault = f"the headers of Python (Debian: python3-dev) must be installed; got no file {header}"
    else:
        return
    raise SystemExit(f"qnumpy: {fault}.")


def is_set(name: str) -> bool:
    return os.environ.get(name) == "1"


# No -ffast-math, no -march, no contraction of a * b + c: results are the same on every machine, and pragmas select the
# target of each ISA row. -fno-trapping-math and -fno-math-errno change no result; they let the element loops vectorize.
flags = ["-std=c11", "-O3", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno", "-fvisibility=hidden"]
flags += ["-Wall", "-Wextra", "-pthread"]
link = ["-pthread"]
if is_set("QNUMPY_WERROR"):
    flags += ["-Wconversion", "-Werror"]
if is_set("QNUMPY_SANITIZE"):
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    flags += [*sanitize, "-fno-omit-frame-pointer", "-g", "-O1"]
    link += sanitize

if sys.platform.startswith("linux"):
    link += ["-Wl,-z,nodelete"]  # ONNX Runtime unloads the module, a library to it, while our threads run

if os.name != "posix":
    raise SystemExit(f"qnumpy: the system must be Linux or macOS; got {os.name}.")

# The ISA rows compile longest and start first. Every folder is on the include path.
sources = glob("csrc/kernels/**/*.c", recursive=True) + glob("csrc/ext/*.c")
sources.sort(key=lambda path: ("/rows/" not in path, path))
folders = sorted(glob("csrc/kernels/*/"))

setup(
    cmdclass={"build_ext": ParallelBuild},
    ext_modules=[
        Extension(
            "qnumpy._core",
            sources=sources,
            depends=sorted(glob("csrc/kernels/**/*.h", recursive=True) + glob("csrc/ext/*.h")),
            include_dirs=[*folders, "csrc/ext", numpy.get_include()],
            define_macros=[
                ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
                ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION"),
            ],
            extra_compile_args=flags,
            extra_link_args=link,
        )
    ],
)
