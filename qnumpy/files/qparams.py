"""Parameters by name in a file of JSON."""

import json
from collections.abc import Mapping

from .._check import must, typed
from .._typing import Path
from ..qparams import QParams
from .atomic import replacing
from .fault import fault, json_object

__all__ = ["load_qparams", "save_qparams"]

FORMAT, VERSION = "qnumpy qparams", 1


def save_qparams(path: Path, qparams: Mapping[str, object]) -> None:
    """Write parameters by name; `save` calls it for a path that ends in .json.

    Parameters
    ----------
    path : str or path
    qparams : mapping of str to QParams
        A calibration, or any mapping.

    Raises
    ------
    TypeError
        qparams is no mapping of names to QParams.
    CalibrationError
        An observer of the calibration has seen nothing finite.
    OSError
        The file cannot be written.
    """
    requirement = "a mapping of names to QParams for a .json file"
    if not isinstance(qparams, Mapping):
        raise TypeError(must("save", "arrays", requirement, typed(qparams)))
    stored = {}
    for name, value in qparams.items():
        if not (isinstance(name, str) and isinstance(value, QParams)):
            raise TypeError(must("save", "arrays", requirement, f"{typed(name)}: {typed(value)}"))
        stored[name] = value.to_dict()
    with replacing(path, "x") as file:
        json.dump({"format": FORMAT, "version": VERSION, "qparams": stored}, file, indent=1, ensure_ascii=False)
        file.write("\n")


def load_qparams(path: Path) -> dict[str, QParams]:
    """Read a file of save_qparams; `load` calls it for a path that ends in .json.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    dict of str to QParams
        Equal to what was saved.

    Raises
    ------
    OSError
        The file cannot be read.
    FileFormatError
        The file holds something else; names the file and the tensor.
    """
    with open(path, "rb") as file:
        content = json_object(path, file.read(), "the file")
    stored = content.get("qparams")
    if (content.get("format"), content.get("version")) != (FORMAT, VERSION) or not isinstance(stored, dict):
        raise fault(path, None, f"the file must hold parameters that save wrote, of version {VERSION}.")
    qparams = {}
    for name, values in stored.items():
        try:
            qparams[name] = QParams.from_dict(values)
        except (KeyError, TypeError, ValueError) as error:
            raise fault(path, name, f": {error}") from error
    return qparams
