"""Digests of the outputs of this checkout on the CPU, and a comparison of two sets of digests.

    python scripts/digests make OUT.json [--only 'network/*'] [--jobs 2]
    python scripts/digests compare BEFORE.json AFTER.json

Use it to show that refactoring does not change a bit: make digests of two commits on one machine,
then compare them. Digests are valid only for one machine and one version of torch, so none are
stored in the repository.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
from pathlib import Path

from comparison import compare


def make(out: Path, only: str, jobs: int) -> int:
    """Write the digests of all jobs whose names match; returns 1 if a job failed."""
    import running

    names = [name for name in running.job_names() if fnmatch.fnmatchcase(name, only)]
    if not names:
        print(f"no job matches {only!r}; `python scripts/digests list` prints the names")
        return 1
    header = running.header()
    digests, failures = running.run(names, jobs)
    out.write_text(json.dumps({"header": header, "digests": digests}, indent=1, sort_keys=True))
    print(f"{out}: {len(digests)} digests of {len(names) - len(failures)} jobs")
    if failures:
        print(f"failed: {', '.join(failures)}")
    return 1 if failures else 0


def list_jobs() -> int:
    """Print the names of all jobs."""
    import running

    print("\n".join(running.job_names()))
    return 0


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="digests", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="compute digests")
    making.add_argument("out", type=Path)
    making.add_argument("--only", default="*", metavar="PATTERN", help="shell pattern of job names")
    making.add_argument("--jobs", type=int, default=1, help="processes")
    comparing = commands.add_parser("compare", help="list differences; exit status 1 if any")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    commands.add_parser("list", help="print the names of the jobs")
    chosen = parser.parse_args()
    if chosen.command == "make":
        return make(chosen.out, chosen.only, chosen.jobs)
    if chosen.command == "compare":
        return compare(chosen.before, chosen.after)
    return list_jobs()


if __name__ == "__main__":
    # Set before torch is imported; worker processes inherit it.
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "COLUMNS": "200"}
    sys.exit(main())
