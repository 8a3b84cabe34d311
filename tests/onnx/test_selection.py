"""Patterns of nodes."""

import pytest
from onnx_zoo import branches, cnn

from qnumpy.onnx._graph import Graph, node_name
from qnumpy.onnx._selection import Selection


def chosen(model, include=None, exclude=None):
    graph = Graph.of(model)
    selection = Selection.of("f", include, exclude, graph)
    return [node_name(node) for scope in graph.walk() for node in scope.proto.node if node in selection]


def test_patterns():
    everything = chosen(cnn())
    assert "Conv_stem" in everything
    assert chosen(cnn(), include="Conv") == [name for name in everything if name.startswith("Conv_")]
    assert chosen(cnn(), include=["Conv_s*", "Gemm"]) == ["Conv_stem", "Conv_skip", "Gemm_logits"]
    assert chosen(cnn(), include=["Conv*"], exclude=["ConvTranspose", "Conv_s*"]) == [
        "Conv_expand", "Conv_depthwise", "Conv_project",
    ]  # fmt: skip
    assert chosen(branches(), include=["MatMul_then*"]) == ["MatMul_then.product"]


def test_wrong_patterns():
    match = r"^f: exclude must be patterns that each match a node's name or operator type; got 'Konv'\. There are "
    with pytest.raises(ValueError, match=match):
        chosen(cnn(), exclude="Konv")
    with pytest.raises(
        TypeError, match=r"^f: include must be names of nodes or operator types, with \* for any text; got 3"
    ):
        chosen(cnn(), include=3)
