"""Child processes import the tested qnumpy, not a folder of that name in their working directory.

Examples of Hypothesis have no deadline, because machines are shared. AddressSanitizer
allocates memory too, so tests of memory are skipped under it.
"""

import os
from pathlib import Path

import pytest
from hypothesis import settings
from strategies import ROWS

import qnumpy

os.environ["PYTHONSAFEPATH"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(qnumpy.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
)
settings.register_profile("qnumpy", deadline=None)
settings.load_profile("qnumpy")


def pytest_collection_modifyitems(items):
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        skip = pytest.mark.skip(reason="AddressSanitizer takes memory of its own")
        for item in items:
            if item.get_closest_marker("memory"):
                item.add_marker(skip)


@pytest.fixture(params=ROWS)
def row(request):
    before = qnumpy.isa()
    qnumpy.set_isa(request.param)
    yield request.param
    qnumpy.set_isa(before)
