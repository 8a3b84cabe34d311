"""Builds qnumpy._core; everything else about the package stands in pyproject.toml.

QNUMPY_WERROR=1    warnings are errors (CI)
QNUMPY_SANITIZE=1  AddressSanitizer and UndefinedBehaviorSanitizer (CI)
"""

import os
from glob import glob

import numpy
from setuptools import Extension, setup


def asked(name: str) -> bool:
    return os.environ.get(name) == "1"


# No -ffast-math, no -march, no contraction of a * b + c: results are the same on every machine, and ISA code asks for
# its own target. -fno-trapping-math and -fno-math-errno change no result; they let the element loops vectorize.
flags = ["-std=c11", "-O3", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno", "-fvisibility=hidden"]
flags += ["-Wall", "-Wextra", "-pthread"]
link = ["-pthread"]
if asked("QNUMPY_WERROR"):
    flags += ["-Wconversion", "-Werror"]
if asked("QNUMPY_SANITIZE"):
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    flags += [*sanitize, "-fno-omit-frame-pointer", "-g", "-O1"]
    link += sanitize

setup(
    ext_modules=[
        Extension(
            "qnumpy._core",
            sources=sorted(glob("csrc/kernels/*.c") + glob("csrc/ext/*.c")),
            depends=sorted(glob("csrc/kernels/*.h") + glob("csrc/ext/*.h")),
            include_dirs=["csrc/kernels", "csrc/ext", numpy.get_include()],
            define_macros=[
                ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
                ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION"),
            ],
            extra_compile_args=flags,
            extra_link_args=link,
        )
    ]
)
