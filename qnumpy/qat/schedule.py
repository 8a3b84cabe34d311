"""What changes during training: the bits of the codes, and when the parameters freeze."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from .. import _args, _check
from .._typing import DType
from ..dtypes import INTEGER_TYPES

__all__ = ["Schedule"]


class Quantizer(Protocol):
    """What a schedule changes; the type too, where the object has one that can be set."""

    def freeze(self) -> None: ...


class Schedule:
    """Lower the bits of quantizers epoch by epoch, and freeze them.

    Parameters
    ----------
    dtypes : mapping of int to str or dtype, optional
        From which epoch on a LearnedScale has which type: ``{0: "int8", 5: "int4", 10: "int2"}``. Unsigned quantizers
        get the unsigned type of as many bits. A FakeQuantize keeps the type of its observer. Those of PyTorch, from
        `qnumpy.torch.qat.quantizers`, all have a type.
    freeze : int, optional
        The epoch from which all parameters stay as they are.

    Raises
    ------
    TypeError
        dtypes is no mapping; an epoch is no integer; a type is no integer type.
    ValueError
        An epoch is negative.

    Examples
    --------
    >>> quantizer = qn.qat.LearnedScale("int8")
    >>> schedule = Schedule({0: "int8", 3: "int4"}, freeze=5)
    >>> schedule.begin_epoch(4, [quantizer])
    >>> quantizer.dtype, quantizer.frozen
    ('int4', False)
    """

    def __init__(self, dtypes: Mapping[int, DType] | None = None, *, freeze: int | None = None) -> None:
        owner = "Schedule"
        if not isinstance(dtypes, Mapping | None):
            raise TypeError(_check.must(owner, "dtypes", "a mapping of epochs to types", _check.typed(dtypes)))
        self.bits = {
            _check.count(owner, "dtypes", epoch): _args.code(owner, dtype, INTEGER_TYPES).bits
            for epoch, dtype in ({} if dtypes is None else dtypes).items()
        }
        self.freeze = None if freeze is None else _check.count(owner, "freeze", freeze)

    def begin_epoch(self, epoch: int, quantizers: Iterable[Quantizer]) -> None:
        """Change the quantizers to what they are in this epoch.

        Raises
        ------
        TypeError
            epoch is no integer.
        ValueError
            epoch is negative.
        """
        epoch = _check.count("Schedule.begin_epoch", "epoch", epoch)
        begun = [start for start in self.bits if start <= epoch]
        for quantizer in quantizers:
            dtype: str | None = getattr(quantizer, "dtype", None)
            if begun and dtype is not None:
                name = f"{dtype.rstrip('0123456789')}{self.bits[max(begun)]}"
                if name != dtype:
                    setattr(quantizer, "dtype", name)  # noqa: B010  # the protocol leaves it open
            if self.freeze is not None and epoch >= self.freeze:
                quantizer.freeze()
