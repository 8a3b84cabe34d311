"""Without the extra `torch` each module of this folder is one skipped test."""

import sys
from importlib.util import find_spec

import pytest

LACKING = [package for package in ("torch",) if find_spec(package) is None]


class SkippedModule(pytest.Module):
    def collect(self):
        pytest.skip(f"{LACKING[0]} is not installed")


def pytest_pycollect_makemodule(module_path, parent):
    return SkippedModule.from_parent(parent, path=module_path) if LACKING else None


def pytest_collection_modifyitems(items):
    for item in items:  # warnings of PyTorch about itself
        item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"))
        # of JAX, where another test has loaded it: workers of a DataLoader do not use it
        item.add_marker(pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning"))


@pytest.fixture(autouse=True)
def nothing_compiled():
    """Each test compiles anew: the limit of recompilations counts for all of a process."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and "torch._dynamo" in sys.modules:
        torch.compiler.reset()
