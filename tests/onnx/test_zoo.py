"""The small models of the other tests: valid, the same in every run, the same answers in both engines."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator
from onnx_zoo import MODELS, OPSETS

PAIRS = [(name, opset) for name in MODELS for opset in OPSETS]


@pytest.mark.parametrize("in_nodes", [False, True])
@pytest.mark.parametrize(("name", "opset"), PAIRS)
def test_models(name, opset, in_nodes):
    build, inputs = MODELS[name]
    model = build(opset=opset, in_nodes=in_nodes)
    onnx.checker.check_model(model, full_check=True)
    assert model.SerializeToString() == build(opset=opset, in_nodes=in_nodes).SerializeToString()
    engine = ort.InferenceSession(model.SerializeToString())
    for seed in (0, 1):
        feed = inputs(seed)
        results = engine.run(None, feed)
        assert all(np.isfinite(y).all() and np.ptp(y) > 0.1 for y in results)
        if opset == 17 and name not in ("lstm", "gru"):  # the reference computes one direction only
            for y, expected in zip(results, ReferenceEvaluator(model).run(None, feed), strict=True):
                np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
