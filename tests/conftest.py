"""Child processes import the qnumpy that is tested, never a folder of that name where they happen to start."""

import os
from pathlib import Path

import qnumpy

os.environ["PYTHONSAFEPATH"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(qnumpy.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
)
