# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""``python -m destseg_anomalib …`` is ``anomalib …`` with our models, also where PyTorch loads no plug-ins.

Two commands are ours: ``python -m destseg_anomalib report RESULTS`` writes the report of a benchmark, and
``python -m destseg_anomalib preview …``, with the arguments of a training, shows what that training would teach, in a
picture ``synthetic.png`` in the folder of the run, and trains nothing.
"""

import sys

from destseg_anomalib.plugin import install_import_hook

if __name__ == "__main__":
    if sys.argv[1:2] == ["report"]:
        from destseg_anomalib.report.report import main as report

        report(sys.argv[2:])
    else:
        install_import_hook()
        if sys.argv[1:2] == ["preview"]:
            # A training of no step prepares everything, the picture among it; the teacher is not asked for anything.
            none = ["--trainer.limit_train_batches", "0", "--trainer.limit_val_batches", "0"]
            sys.argv[1:] = ["fit", *sys.argv[2:], "--model.pre_trained", "false", *none]

        from anomalib.cli.cli import main

        main()
