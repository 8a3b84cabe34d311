"""Pages of documentation whose programs run."""

import contextlib
import io
import re


def run_blocks(page):
    """Run every Python block of a page in order, compare what it prints with the text below it; return the names."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    names = {"__name__": "__main__"}
    for (language, body), (following, expected) in zip(fences, [*fences[1:], ("", "")], strict=True):
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(body, str(page), "exec"), names)
            wanted = expected if following == "text" else ""
            assert [line.rstrip() for line in printed.getvalue().splitlines()] == wanted.splitlines(), body
    return names
