# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""List what an installation of destseg-anomalib brings along: versions, licences, and known vulnerabilities.

    pip install pip-audit
    python examples/audit_dependencies.py

Everything is read from the packages that are installed. Only the vulnerabilities are asked for over the network. The
exit code is 0 if none is known, 1 if some are, 2 if they could not be asked for.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PACKAGE = "destseg-anomalib"


def dependencies(name: str, extras: frozenset[str] = frozenset()) -> dict[str, Distribution]:
    """Find the distributions that a package needs on this machine, itself included, by name."""
    found: dict[str, Distribution] = {}
    wanted, seen = [(name, extras)], set()
    while wanted:
        name, extras = wanted.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # asked for by an optional part that was not installed
        for line in found[name].requires or []:
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                wanted.append((canonicalize_name(need.name), frozenset(need.extras)))
    return dict(sorted(found.items()))


def licence(package: Distribution) -> str:
    """Say under which licence a package says that it is."""
    fields = package.metadata
    if expression := fields.get("License-Expression"):
        return expression
    if named := [line.split(" :: ")[-1] for line in fields.get_all("Classifier", []) if line.startswith("License ::")]:
        return ", ".join(named)
    text = (fields.get("License") or "").strip().splitlines()
    return text[0] if text else "not stated"


def vulnerabilities(packages: dict[str, Distribution]) -> Iterator[str]:
    """Ask the Python Packaging Advisory Database, through pip-audit, about exactly these versions.

    Raises:
        ConnectionError: If it cannot be asked.
    """
    if find_spec("pip_audit") is None:
        msg = "Vulnerabilities were not looked up, since pip-audit is not installed: pip install pip-audit."
        raise ConnectionError(msg)
    pinned = [f"{name}=={Version(package.version).public}" for name, package in packages.items() if name != PACKAGE]
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "pins.txt"
        pins.write_text("\n".join(pinned))
        options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--timeout", "10"]
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(pins), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  names and versions
    if not done.stdout.strip():
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        msg = f"Vulnerabilities were not looked up, since pip-audit could not reach its database ({reason[:120]})."
        raise ConnectionError(msg)
    for package in json.loads(done.stdout)["dependencies"]:
        if "skip_reason" in package:
            yield f"{package['name']}: not looked up ({package['skip_reason']})"
        for found in package.get("vulns", []):
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            yield f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}"


def main() -> int:
    """Print the list and the vulnerabilities."""
    packages = dependencies(PACKAGE)
    for name, package in packages.items():
        print(f"{name:32} {package.version:20} {licence(package)[:80]}")
    print(f"\n{len(packages)} packages, {PACKAGE} among them.")
    try:
        known = list(vulnerabilities(packages))
    except ConnectionError as error:
        print(error)
        return 2
    print("\n".join(known) or "No vulnerability of any of these versions is known.")
    return bool(known)


if __name__ == "__main__":
    sys.exit(main())
