"""``qnumpy info``: what it prints."""

import json

import qnumpy as qn


def test_info(run):
    code, text, _ = run("info")
    assert code == 0
    assert qn.isa() in text
    about = json.loads(run("info", "--json")[1])
    assert about["qnumpy"] == qn.__version__
    assert about["kernels"]
