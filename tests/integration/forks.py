# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""Programs in processes of their own that do not import everything anew: forks of one that has anomalib imported."""

import json
import socket
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

# Runs the file that its first argument names, the tests being importable, as two processes that know of each other, in
# the way in which torchrun starts them.
PAIR = f"""
import os, runpy, sys
_, port, *sys.argv = sys.argv
sys.path.insert(0, {str(REPOSITORY)!r})
os.environ |= {{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "tests"}}
other = os.fork()
rank = "0" if other else "1"
os.environ |= {{"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "RANK": rank, "LOCAL_RANK": rank}}
runpy.run_path(sys.argv[0], run_name="__main__")
if other:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
"""


def free_port() -> str:
    """Find a port at which processes can meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


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

    def run_pair(self, file: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a file of the tests in two processes, each of which is one of Lightning's devices."""
        return self.run(PAIR, free_port(), file, *arguments, folder=folder)
