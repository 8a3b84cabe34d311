"""Operations on plain arrays: plain arrays in, plain arrays out.

Only this folder calls the compute functions of `_core`. Users call the public functions as `qnumpy.quantize_linear`.
"""

__all__: list[str] = []
