"""Calibration and quantization of dask arrays and bags: more data than one machine, the same bits as one process.

Needs the extra ``dask``. Observers are reduced as a tree by whatever scheduler dask uses: threads, processes, a
cluster.
"""

from .arrays import choose_qparams, compare, dequantize, quantize
from .reduction import calibrate, from_safetensors, observe

__all__ = ["calibrate", "choose_qparams", "compare", "dequantize", "from_safetensors", "observe", "quantize"]
