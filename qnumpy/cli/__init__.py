"""The command line: ``qnumpy quantize | dequantize | inspect | compare | plot | calibrate | onnx | info | demo``.

A command is a module of this folder with two functions: ``add(commands)`` adds its arguments and ``run(args)`` returns
its exit code. Exit codes: 0 fine, 1 a quality gate failed, 2 usage, 3 a file that cannot be read or written,
128 + n stopped by the signal n.
"""

import argparse
import contextlib
import io
from collections.abc import Sequence

from .. import __version__
from ..errors import FileFormatError, UnsupportedISAError
from ..runtime import isa
from . import calibrate, compare, demo, dequantize, info, inspect, onnx, plot, quantize
from .common import BAD_FILE, FINE, INTERRUPTED, USAGE, UsageError, complain
from .signals import Stopped, unwinding
from .streams import show, standard_streams, warn

__all__ = ["main"]

COMMANDS = (quantize, dequantize, inspect, compare, plot, calibrate, onnx, info, demo)  # in the order of the help


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.
    """
    with standard_streams():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    args = argparse.Namespace(command=None, code=FINE, left="no file was written")
    try:
        out, err = io.StringIO(), io.StringIO()  # argparse ignores that a stream is full
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                args = _parser().parse_args(argv)
        except SystemExit as stop:
            if err.getvalue():
                warn(err.getvalue().removesuffix("\n"))
            if out.getvalue():
                show(out.getvalue().removesuffix("\n"))
            return int(stop.code or FINE)
        try:
            isa()
        except (UnsupportedISAError, ValueError) as error:  # QNUMPY_ISA or QNUMPY_NUM_THREADS is wrong
            warn(str(error))
            return USAGE
        with unwinding():
            return int(args.run(args))
    except UsageError as error:
        return complain(args, str(error), USAGE)
    except BrokenPipeError:  # the reader of the output has left
        return int(args.code)
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return complain(args, f"{text}.", args.code or BAD_FILE)
    except FileFormatError as error:
        return complain(args, str(error), BAD_FILE)
    except Stopped as stop:
        return complain(args, f"{stop}; {args.left}.", stop.code)
    except KeyboardInterrupt:
        return complain(args, f"interrupted; {args.left}.", INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qnumpy",
        description="Quantize the arrays of .npz, .safetensors and .gguf files, and ONNX models.",
        epilog="Exit codes: 0 fine, 1 quality gate failed, 2 usage, 3 bad file.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"qnumpy {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
