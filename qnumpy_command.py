"""The command ``qnumpy``. It stands outside the package, whose import reads the environment and may refuse it."""

import sys

ENVIRONMENT = "qnumpy: QNUMPY_"  # how the sentence about a variable begins
USAGE = 2


def main() -> int:
    """Run the command line; say what is wrong with a variable of the environment as with an argument."""
    try:
        from qnumpy.cli import main as run
    except (RuntimeError, ValueError) as error:
        if not str(error).startswith(ENVIRONMENT):
            raise
        print(error, file=sys.stderr)
        return USAGE
    return run()
