# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""``python -m destseg_anomalib …`` is ``anomalib …`` with our models, also where PyTorch loads no plug-ins."""

from destseg_anomalib.plugin import install_import_hook

if __name__ == "__main__":
    install_import_hook()

    from anomalib.cli.cli import main

    main()
