"""Shared by the tests of the commands: a model in a file, and a way to run a command."""

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from tensor_files import reals

from qnumpy import cli


@pytest.fixture
def model(tmp_path):
    """A small model: two weights, an embedding in bfloat16, a norm, integers."""
    arrays = {
        "embed.weight": reals(40, 16).astype(ml_dtypes.bfloat16),
        "fc.weight": reals(12, 16, seed=1),
        "fc.bias": reals(12, seed=2),
        "head.weight": reals(5, 12, seed=3),
        "steps": np.arange(6).reshape(2, 3),
    }
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})
    return path


@pytest.fixture
def run(capsys):
    def run(*argv):
        code = cli.main([str(word) for word in argv])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run
