"""The codes of a weight as every form of weight-only quantization takes them."""

from typing import Any, NamedTuple

import numpy as np

from ..._typing import Array, Float32Array
from ...arrays.offset import OffsetArray

__all__ = ["Codes"]


class Codes(NamedTuple):
    """Codes of a matrix (N, K) in groups along K; levels are ``scale * (code - zero)``, or ``scale * code + offset``.

    `codes` is uint8 (N, K) from 0 to ``2**bits - 1``. `scale` is float32 (N, G), `zero` uint8 (N, G), `offset` float32
    (N, G); one of the last two is None. The last group may be short.
    """

    codes: Array
    bits: int
    group_size: int
    scale: Float32Array
    zero: Array | None
    offset: Float32Array | None

    @classmethod
    def of(cls, q: Any, bits: int, group_size: int) -> "Codes":
        """Take the codes of a QuantizedArray or an OffsetArray (N, K), whose groups are along K."""
        plain = np.asarray(q.codes).astype(np.int16)
        if isinstance(q, OffsetArray):
            return cls(plain.astype(np.uint8), bits, group_size, q.scale, None, q.offset)
        shift = -q.qparams.code.qmin
        zero = np.broadcast_to(np.asarray(q.zero_point), q.scale.shape).astype(np.int16) + shift
        return cls((plain + shift).astype(np.uint8), bits, group_size, q.scale, zero.astype(np.uint8), None)

    @property
    def middle(self) -> int:
        """The zero point of symmetric codes."""
        return 1 << (self.bits - 1)

    @property
    def is_symmetric(self) -> bool:
        return self.zero is not None and bool((self.zero == self.middle).all())

    @property
    def groups(self) -> int:
        return int(self.scale.shape[1])

    def padded(self) -> Array:
        """Return the codes with whole groups; those beyond K have the level nearest to zero."""
        rows, inputs = self.codes.shape
        rest = self.groups * self.group_size - inputs
        if not rest:
            return self.codes
        if self.zero is not None:
            last = self.zero[:, -1:]
        else:
            assert self.offset is not None
            last = np.clip(np.rint(-self.offset[:, -1:] / self.scale[:, -1:]), 0, (1 << self.bits) - 1).astype(np.uint8)
        return np.concatenate([self.codes, np.broadcast_to(last, (rows, rest))], axis=1)

    def levels(self, dtype: Any = np.float32) -> Array:
        """Return the reals that the codes stand for, as the operators of ONNX compute them: each operation rounds."""
        group = np.arange(self.codes.shape[1]) // self.group_size
        scale = self.scale.astype(dtype)[:, group]
        if self.zero is None:
            assert self.offset is not None
            return np.asarray(self.codes.astype(dtype) * scale + self.offset.astype(dtype)[:, group])
        return np.asarray((self.codes.astype(dtype) - self.zero.astype(dtype)[:, group]) * scale)
