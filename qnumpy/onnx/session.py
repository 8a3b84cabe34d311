"""Running models in ONNX Runtime with qnumpy's operators."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto

from .. import _check
from .._typing import Array
from ..errors import FileFormatError
from ._files import LARGEST, nbytes, read_model, tensors, write_model
from ._report import find_report

__all__ = ["custom_ops_library", "opened", "require_batches", "run_batches", "session"]

DOMAIN = "qnumpy"
_THREADS = "qnumpy.threads"  # our operators cannot ask the runtime for its number
_THREADS_END = 2**31
_WEIGHT_ONLY = "session.qdq_matmulnbits_accuracy_level"
_DTYPES: dict[str, Any] = {
    "float": np.float32, "double": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
    "bool": np.bool_, "string": np.object_,
    **{name: np.dtype(name) for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")},
}  # fmt: skip


def custom_ops_library() -> str:
    """Return the path of the library with the operators of domain "qnumpy": the extension module of qnumpy itself.

    Returns
    -------
    str
        For ``SessionOptions.register_custom_ops_library`` of ONNX Runtime, in any program.

    Examples
    --------
    >>> import onnxruntime
    >>> options = onnxruntime.SessionOptions()
    >>> options.register_custom_ops_library(custom_ops_library())  # doctest: +SKIP
    """
    spec = find_spec("qnumpy._core")
    assert spec is not None
    assert spec.origin is not None
    return spec.origin


def session(model: Any, *, threads: int | None = None, options: Any = None) -> Any:
    """Make a session of ONNX Runtime for a model, with qnumpy's operators where it has them.

    Parameters
    ----------
    model : path, bytes or ModelProto
    threads : int, optional
        How many threads compute one operator; the runtime's default otherwise.
    options : onnxruntime.SessionOptions, optional
        Other settings; the object is changed.

    Returns
    -------
    onnxruntime.InferenceSession
        On the CPU. A model whose report says that its weights alone are quantized runs with float activations: in a
        plain session the runtime rounds the activations of such a file to int8.

    Raises
    ------
    TypeError, ValueError
        A wrong argument.
    FileFormatError
        The model cannot be read, or the runtime refuses it.

    Examples
    --------
    >>> import qnumpy as qn
    >>> engine = qn.onnx.session("model.onnx", threads=1)  # doctest: +SKIP
    >>> engine.run(None, {"x": np.ones((8, 16), np.float32)})  # doctest: +SKIP
    """
    return opened("session", model, threads, options)


def opened(owner: str, model: Any, threads: int | None, options: Any = None) -> Any:
    """Make a session for a function, whose name errors bear."""
    if threads is not None:
        threads = _check.integer(owner, "threads", threads)
        if threads < 1:
            raise ValueError(_check.must(owner, "threads", "at least 1", str(threads)))
        if threads >= _THREADS_END:
            raise ValueError(_check.must(owner, "threads", "less than 2**31", str(threads)))
    if options is not None and not isinstance(options, ort.SessionOptions):
        raise TypeError(_check.must(owner, "options", "an onnxruntime.SessionOptions", _check.typed(options)))
    if options is None:
        options = ort.SessionOptions()
        options.log_severity_level = 4  # errors are exceptions
    facts = _outline(owner, model)
    if threads is not None:
        options.intra_op_num_threads = threads
        options.add_session_config_entry(_THREADS, str(threads))
    for key, value in _entries(facts).items():
        options.add_session_config_entry(key, value)
    if any(entry.domain == DOMAIN for entry in facts.opset_import):
        options.register_custom_ops_library(custom_ops_library())
    del facts  # a copy of the model, where that is bytes or a file
    try:
        return _open(model, options)
    except OSError:
        raise
    except Exception as error:  # the runtime's exceptions have no common base
        text = " ".join(str(error).split())[:300].rstrip(".")
        raise FileFormatError(_check.must(owner, "model", "one that ONNX Runtime loads", text)) from error


def _outline(owner: str, model: Any) -> ModelProto:
    """Return a model without its external data."""
    if isinstance(model, ModelProto):
        return model
    if isinstance(model, str | os.PathLike):
        try:
            return onnx.load(model, load_external_data=False)
        except OSError:
            raise
        except Exception:  # the sentence of a damaged file
            return read_model(owner, model)
    return read_model(owner, model)


def _entries(model: ModelProto) -> dict[str, str]:
    """Return the options of a session that a model needs, which its report says."""
    found = find_report(model)
    if found is None:
        return {}
    entries = {str(key): str(value) for key, value in dict(found.facts.get("session") or {}).items()}
    if found.facts.get("function") == "quantize_weights":
        entries.setdefault(_WEIGHT_ONLY, "0")
    return entries


def _open(model: Any, options: Any) -> Any:
    plain: Any = {"providers": ["CPUExecutionProvider"], "enable_fallback": 0}  # which prints
    if isinstance(model, str | os.PathLike):
        return ort.InferenceSession(os.fspath(model), options, **plain)
    if not isinstance(model, ModelProto):
        return ort.InferenceSession(bytes(model), options, **plain)
    if sum(nbytes(tensor) for tensor in tensors(model.graph)) <= LARGEST:
        return ort.InferenceSession(model.SerializeToString(), options, **plain)
    with tempfile.TemporaryDirectory() as folder:  # a protobuf message ends at 2 GB
        path = os.path.join(folder, "model.onnx")
        write_model("session", model, path)
        return ort.InferenceSession(path, options, **plain)


def run_batches(owner: str, session: Any, data: Any) -> Iterator[dict[str, Array]]:
    """Run a session with every item of the data; yield its outputs by name.

    An item is a mapping of the inputs' names to arrays, or an array for a model of one input. Names, dtypes and shapes
    are checked: a wrong one is one sentence.
    """
    names = [value.name for value in session.get_outputs()]
    for index, feed in enumerate(feeds(owner, session, data)):
        with refusing(owner, index):
            results = session.run(names, feed)
        outputs = dict(zip(names, results, strict=True))
        del results  # what the caller drops is free before the next run
        yield outputs
        del outputs


@contextmanager
def refusing(owner: str, index: int) -> Iterator[None]:
    """Turn what the runtime says of a batch into one sentence."""
    try:
        yield
    except Exception as error:  # the runtime's exceptions have no common base
        text = " ".join(str(error).split())[:300].rstrip(".")
        got = f"batch {index}, at which ONNX Runtime says: {text}"
        raise ValueError(_check.must(owner, "data", "batches that the model can run", got)) from error


def require_batches(owner: str, data: Any) -> None:
    """Refuse data that are no iterable of batches."""
    if isinstance(data, Mapping | str | bytes | np.ndarray | ModelProto) or not isinstance(data, Iterable):
        wanted = "an iterable of batches: of {input name: array}, or of arrays for a model of one input"
        mend = " Put it into a list." if isinstance(data, Mapping | np.ndarray) else ""
        raise TypeError(_check.must(owner, "data", wanted, _check.typed(data)) + mend)


def feeds(owner: str, session: Any, data: Any) -> Iterator[dict[str, Array]]:
    """Yield the items of the data as checked feeds of a session."""
    require_batches(owner, data)
    inputs = {value.name: value for value in session.get_inputs()}
    optional = {value.name for value in session.get_overridable_initializers()}
    for index, item in enumerate(data):
        yield _feed(owner, inputs, optional, index, item)


def _feed(owner: str, inputs: Mapping[str, Any], optional: set[str], index: int, item: Any) -> dict[str, Array]:
    place = f"data (batch {index})"
    listed = ", ".join(map(repr, inputs))
    if not isinstance(item, Mapping):
        if len(inputs) != 1:
            raise TypeError(_check.must(owner, place, f"a mapping of the inputs {listed}", _check.typed(item)))
        item = {next(iter(inputs)): item}
    for name in item:
        if name not in inputs and name not in optional:
            raise ValueError(_check.must(owner, place, f"a mapping of the inputs {listed}", f"the name {name!r}"))
    lacking = [name for name in inputs if name not in item]
    if lacking:
        raise ValueError(_check.must(owner, place, f"a mapping of the inputs {listed}", f"none for {lacking[0]!r}"))
    return {
        str(name): _value(owner, f"{place}: {name!r}", inputs[name], value) if name in inputs else value
        for name, value in item.items()
    }


def _value(owner: str, place: str, value: Any, item: Any) -> Any:
    """Return the array of one input, of the dtype and the shape that the model declares."""
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    if not value.type.startswith("tensor(") or kind not in _DTYPES:  # a sequence, or a type that NumPy lacks
        return item
    array, dtype = _check.array(owner, place, item), np.dtype(_DTYPES[kind])
    if kind != "string" and array.dtype != dtype:
        if not _check.is_python(item, array):
            mend = f" Use x.astype({dtype.name!r}) first."
            raise TypeError(_check.must(owner, place, f"of dtype {dtype.name}", f"dtype {array.dtype}") + mend)
        array = array.astype(dtype)
    shape = value.shape
    fits = len(shape) == array.ndim and all(
        not isinstance(wanted, int) or wanted == length for wanted, length in zip(shape, array.shape, strict=True)
    )
    if not fits and shape is not None and not (shape == [] and array.ndim):
        text = f"({', '.join(str(n) for n in shape)}{',' if len(shape) == 1 else ''})"
        raise ValueError(_check.must(owner, place, f"of shape {text}", f"shape {array.shape}"))
    return array if kind == "string" else np.ascontiguousarray(array).reshape(array.shape)
