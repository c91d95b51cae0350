# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What a command says when it is done: what came out, and where it lies."""

from rich import get_console


def say(line: str) -> None:
    """Print a line as it is, however narrow the terminal, so that a path in it can be copied.

    Args:
        line: The line.
    """
    get_console().print(line, soft_wrap=True, highlight=False, markup=False)
