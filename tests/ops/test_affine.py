"""Elementwise operations on checked arguments: the public functions with `out`, in every memory order."""

import numpy as np
import pytest
from strategies import GRIDS, LAYOUTS, assert_same_bits, case

import qnumpy as qn
from qnumpy import _args
from qnumpy.dtypes import CODE_TYPES, REAL_TYPES
from qnumpy.ops import affine
from qnumpy.ops.gradients import Inside, affine_keep_inside, fake_quantize_inside, keep_inside


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("layout", ["c", "f", "strided", "big-endian"])
@pytest.mark.parametrize("given", [False, True])
def test_are_the_public_functions(grid, layout, given):
    granularity, code, real = GRIDS[grid].granularity, CODE_TYPES["int4"], REAL_TYPES["float32"]
    for n in (0, 1, 7, 70):
        plain, scale, zero = case(GRIDS[grid], n, "int4", np.float32)
        params = qn.QParams(scale, zero, "int4", granularity)
        x = LAYOUTS[layout](plain)
        parts = _args.layout_of("test", granularity, x.shape)
        parameters = affine.Affine(parts, params.scale, params.zero_point, params.qmin, params.qmax)

        def out(dtype, like):
            return affine.result_like(like, dtype) if given else None

        codes = affine.quantize(x, real, parameters, code, out=out(code.dtype, x))
        assert_same_bits(codes, qn.quantize(plain, params).codes)
        reals = affine.dequantize(codes, code, parameters, real, out(np.float32, codes))
        assert_same_bits(reals, qn.dequantize(qn.quantize(plain, params)))
        assert_same_bits(affine.fake_quantize(x, real, parameters, out=out(np.float32, x)), reals)
        y, bits = affine.fake_quantize_inside(x, real, parameters, out=out(np.float32, x))
        assert_same_bits(y, reals)
        inside = fake_quantize_inside("test", x, params)[1]
        assert bits.tobytes() == inside.bits.tobytes()
        dx = affine_keep_inside(y, real, Inside(bits, inside.shape, inside.order), out(np.float32, x))
        assert_same_bits(dx, keep_inside("test", y, inside))
        if not x.flags.c_contiguous and layout == "f":
            assert codes.strides == tuple(step // 4 for step in x.strides)
