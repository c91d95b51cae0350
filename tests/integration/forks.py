# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Programs in processes of their own that do not import everything anew: forks of one that has anomalib imported."""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType

REPOSITORY = Path(__file__).resolve().parents[2]

# Reads jobs from its input, one a line, runs each in a fork, and prints its exit code, or minus its signal.
PARENT = """
import gc, json, os, sys, traceback
import anomalib.cli.cli, anomalib.data, anomalib.engine, anomalib.models

gc.freeze()  # or each fork looks for cycles among all that was imported, and copies its memory for that
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        for stream in (1, 2):
            os.dup2(os.open(job["printed"][stream - 1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        os.chdir(job["folder"])
        sys.argv[1:] = job["arguments"]
        code = 1
        try:
            exec(job["program"], {"__name__": "__main__"})
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

# Runs the file that its first argument names as if it had been started by that name, the tests being importable.
FILE = f"""
import os, runpy, sys
del sys.argv[0]
os.environ["PYTHONPATH"] = {str(REPOSITORY)!r}
sys.path.insert(0, {str(REPOSITORY)!r})
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Forks:
    """Runs Python programs one after another, each in a new process that has the libraries imported already.

    Args:
        folder: Where they leave what they print, for the time of a run.
    """

    def __init__(self, folder: Path) -> None:
        self.printed = [folder / name for name in ("stdout", "stderr")]
        self.parent = subprocess.Popen(
            [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "Forks":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.parent.kill()  # which a program that hangs would not let end
        self.parent.communicate()

    def run(self, program: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a program in a folder; arguments are what it finds in `sys.argv[1:]`."""
        job = {"program": program, "arguments": arguments, "folder": str(folder), "printed": [*map(str, self.printed)]}
        self.parent.stdin.write(json.dumps(job) + "\n")
        self.parent.stdin.flush()
        code = int(self.parent.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, *(path.read_text() for path in self.printed))

    def run_file(self, file: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a file of the tests, which Lightning starts anew for its other processes."""
        return self.run(FILE, file, *arguments, folder=folder)
