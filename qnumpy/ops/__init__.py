"""Operations on plain arrays: plain arrays in, plain arrays out.

Only this folder calls the compute functions of `_core`. The public functions stand on top, as `qnumpy.quantize_linear`.
"""

__all__: list[str] = []
