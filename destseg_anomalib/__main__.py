# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""``python -m destseg_anomalib …`` is ``anomalib …`` with our models, also where PyTorch loads no plug-ins.

One command is ours: ``python -m destseg_anomalib report RESULTS`` writes the report of a benchmark.
"""

import sys

from destseg_anomalib.plugin import install_import_hook

if __name__ == "__main__":
    if sys.argv[1:2] == ["report"]:
        from destseg_anomalib.report.report import main as report

        report(sys.argv[2:])
    else:
        install_import_hook()

        from anomalib.cli.cli import main

        main()
