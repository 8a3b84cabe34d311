"""ReferenceEvaluator: ONNX's node cases of the quantized operators, and the bits of the operators in ONNX Runtime."""

import numpy as np
import pytest
from strategies import assert_same_bits

onnx = pytest.importorskip("onnx")

from onnx_cases import CASES, array, before_1_23  # noqa: E402

from qnumpy.onnx.evaluator import ReferenceEvaluator  # noqa: E402


@pytest.mark.parametrize("name", CASES)
def test_node_case(name):
    case = CASES[name]
    if name.startswith("test_qlinearmatmul") and "_int8_" in name and before_1_23():
        pytest.skip("the expected codes wrapped instead of saturating")
    evaluator = ReferenceEvaluator(case.model)
    for inputs, outputs in case.data_sets:
        feeds = {info.name: array(t) for info, t in zip(case.model.graph.input, inputs, strict=True)}
        for got, want in zip(evaluator.run(None, feeds), map(array, outputs), strict=True):
            if want.dtype.name == "float4_e2m1fn":  # written out as numbers, where a zero has no sign
                got, want = (np.asarray(codes).astype(np.float32) + np.float32(0) for codes in (got, want))
            assert_same_bits(np.asarray(got), want, name)


def test_every_node_case_is_run(capsys):
    with capsys.disabled():
        print(f"\nONNX {onnx.__version__}: {len(CASES)} node cases run through the evaluator")
    assert len(CASES) >= 30
