"""CodedArray: the base of the arrays of codes."""

from collections.abc import Iterator
from typing import Any, ClassVar, Self

from numpy.typing import DTypeLike

from .._tables import html_facts
from .._typing import Array

__all__ = ["CodedArray"]


class CodedArray:
    """An array of codes with the shape of the reals they stand for; ``np.asarray`` returns the reals."""

    __slots__ = ("codes",)
    __array_ufunc__ = None  # NumPy leaves x @ q to the class; ufuncs refuse q instead of dequantizing it

    codes: Array
    _type_label: ClassVar[str]  # of the first item of _describe

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.codes.shape)

    @property
    def ndim(self) -> int:
        return self.codes.ndim

    @property
    def size(self) -> int:
        return self.codes.size

    @property
    def nbytes(self) -> int:
        """Bytes in a file."""
        raise NotImplementedError

    def dequantize(self, dtype: DTypeLike = "float32", out: Array | None = None) -> Array:
        """Return the reals."""
        raise NotImplementedError

    def _describe(self) -> list[str]:
        """Return the type of the codes, then facts about their parameters."""
        raise NotImplementedError

    def __getitem__(self, key: Any) -> Self:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[Self]:
        return (self[k] for k in range(len(self)))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            name = type(self).__name__
            raise ValueError(f"{name}: copy must be None or True; got False. Dequantizing always copies.")
        values = self.dequantize()
        return values if dtype is None else values.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join([str(self.shape), *self._describe()])})"

    def _repr_html_(self) -> str:
        code_type, *parameters = self._describe()
        rows = [("shape", str(self.shape)), (self._type_label, code_type), ("parameters", ", ".join(parameters))]
        rows.append(("bytes", f"{self.size * 4:,} as float32, {self.nbytes:,} here"))
        return html_facts(type(self).__name__, rows)
