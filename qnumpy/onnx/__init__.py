"""Models in ONNX files: quantize them, run them, evaluate them, tune them.

`onnx` reads and writes, `onnxruntime` runs, qnumpy decides ranges, rounds weights and checks exactness. Needs the extra
``onnx``; modules load when a name of theirs is used. Every function takes a model as a path, bytes or a ModelProto,
leaves it as it is, returns a new ModelProto, and writes it where `output` is named.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._report import report as report
    from .compare import compare as compare
    from .convert_float import convert_float as convert_float
    from .evaluate import evaluate as evaluate
    from .evaluator import ReferenceEvaluator as ReferenceEvaluator
    from .exact import check_exact as check_exact
    from .inspect import inspect as inspect
    from .session import custom_ops_library as custom_ops_library
    from .session import session as session
    from .static import calibrate as calibrate
    from .static import quantize_static as quantize_static
    from .tune import tune as tune
    from .weights import quantize_weights as quantize_weights

# The module that holds a name.
_HOMES = {
    "ReferenceEvaluator": "evaluator",
    "calibrate": "static",
    "check_exact": "exact",
    "compare": "compare",
    "convert_float": "convert_float",
    "custom_ops_library": "session",
    "evaluate": "evaluate",
    "inspect": "inspect",
    "quantize_static": "static",
    "quantize_weights": "weights",
    "report": "_report",
    "session": "session",
    "tune": "tune",
}

__all__ = [
    "ReferenceEvaluator",
    "calibrate",
    "check_exact",
    "compare",
    "convert_float",
    "custom_ops_library",
    "evaluate",
    "inspect",
    "quantize_static",
    "quantize_weights",
    "report",
    "session",
    "tune",
]


class _Package(ModuleType):
    """Some functions have the name of their module; the import of the module must not hide the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOMES.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


if not TYPE_CHECKING:  # to a type checker any name would be an attribute
    sys.modules[__name__].__class__ = _Package

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module 'qnumpy.onnx' has no attribute {name!r}")
        from importlib import import_module

        try:
            value = getattr(import_module(f"qnumpy.onnx.{_HOMES[name]}"), name)
        except ImportError as error:
            package = str(error.name).partition(".")[0]
            if package not in ("onnx", "onnxruntime"):
                raise
            raise ImportError(
                f"qnumpy.onnx.{name}: {package} must be installed: pip install 'qnumpy[onnx]'.", name=package
            ) from error
        globals()[name] = value
        return value

    def __dir__():
        return sorted(__all__)
