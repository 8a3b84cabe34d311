"""Models in ONNX files: quantize them, run them, evaluate them, tune them.

`onnx` reads and writes, `onnxruntime` runs, qnumpy decides ranges, rounds weights and checks exactness. Needs the extra
``onnx``; modules load when a name of theirs is used. Every function takes a model as a path, bytes or a ModelProto,
leaves it as it is, returns a new ModelProto, and writes it where `output` is named.
"""

from typing import TYPE_CHECKING

from .._lazy import serve

if TYPE_CHECKING:
    from ._report import report as report
    from .compare import compare as compare
    from .convert_float import convert_float as convert_float
    from .dynamic import quantize_dynamic as quantize_dynamic
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
    "quantize_dynamic": "dynamic",
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
    "quantize_dynamic",
    "quantize_static",
    "quantize_weights",
    "report",
    "session",
    "tune",
]


if not TYPE_CHECKING:  # to a type checker any name would be an attribute
    serve(__name__, _HOMES, "onnx", ["onnx", "onnxruntime"])
