"""Calibration and quantization of dask arrays and bags, larger than memory, with the same bits as in one process.

Needs the extra ``dask``. Any scheduler of dask can reduce the observers, as a tree: threads, processes, a cluster.
"""

from .arrays import choose_qparams, compare, dequantize, quantize
from .reduction import calibrate, from_safetensors, observe

__all__ = ["calibrate", "choose_qparams", "compare", "dequantize", "from_safetensors", "observe", "quantize"]
