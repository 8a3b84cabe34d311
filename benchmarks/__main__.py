"""Run every benchmark and write benchmarks/results/<cpu>-<row>.json; or make the page of such a file.

Run: ``python -m benchmarks``, then ``python -m benchmarks --page``

A file bench_<stem>.py has ``cases(threads)``, whose candidates take turns in this process, or ``entries(effort)``,
which starts processes of its own. With names only those files run, and nothing is written.
"""

import argparse
import importlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
FILES = sorted(path.relative_to(FOLDER) for path in FOLDER.rglob("bench_*.py"))


def measure(files: Sequence[Path], effort: tuple[int, float], threads: Sequence[int], only: str) -> Iterator[object]:
    """The entries of some files."""
    from . import harness

    singles: dict[tuple[str, str, str], float] = {}
    for file in files:
        module = importlib.import_module("." + ".".join(file.with_suffix("").parts), __package__)
        if hasattr(module, "entries"):
            yield from (entry for entry in module.entries(effort) if only in entry.operation)
            continue
        for count in threads:
            for case in module.cases(count):
                case.ours = {name: call for name, call in case.ours.items() if only in name}
                if case.ours:
                    yield from harness.measure(case, effort, singles)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="stems or folders, as 'conv' or 'ops': only print their figures")
    parser.add_argument("--quick", action="store_true", help="three rounds a case")
    parser.add_argument("--only", default="", metavar="TEXT", help="operations that contain this; for names")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], choices=[1, 2], help="for names")
    parser.add_argument(
        "--page", nargs="?", type=Path, const=RESULTS, metavar="JSON", help="make the page; of the newest results"
    )
    options = parser.parse_args()
    from . import page

    if options.page:
        page.write(page.newest(options.page) if options.page.is_dir() else options.page)
        return
    from . import harness

    effort = harness.QUICK if options.quick else harness.FULL
    files = [file for file in FILES if {*file.parts[:-1], file.stem.removeprefix("bench_")} & set(options.names)]
    if options.names and not files:
        parser.error(f"no file is named {' or '.join(options.names)}")
    entries, start = [], time.monotonic()
    for entry in measure(files or FILES, effort, options.threads if files else [1, 2], options.only if files else ""):
        entries.append(entry)
        print(page.line(asdict(entry)), flush=True)
    if not files:
        print(harness.save(entries, effort, (time.monotonic() - start) / 60, RESULTS).relative_to(FOLDER.parent))


if __name__ == "__main__":
    main()
