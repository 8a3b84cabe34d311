"""Child processes import the qnumpy that is tested, never a folder of that name where they happen to start; and the
fixture of the tests that run on every ISA row."""

import os
from pathlib import Path

import pytest
from strategies import ROWS

import qnumpy

os.environ["PYTHONSAFEPATH"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(qnumpy.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
)


@pytest.fixture(params=ROWS)
def row(request):
    before = qnumpy.isa()
    qnumpy.set_isa(request.param)
    yield request.param
    qnumpy.set_isa(before)
