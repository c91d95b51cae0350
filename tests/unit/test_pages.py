# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What the pages point at is there, to the line."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in REPOSITORY.rglob("*.md")
    if not any(part.startswith(".") or part in {"results", "datasets"} for part in path.relative_to(REPOSITORY).parts)
)
LINK = re.compile(r"\[(`[^`]+`|[^]`]*)\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
LINE = re.compile(r"\[`([^`]+)`\]\(([^)#\s]+)#L(\d+)\)")
ROWS = re.compile(r"^\| (\d+) \|.*$", re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def headings(page: Path) -> set[str]:
    """Anchors that a page offers, as GitHub makes them of its headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for _, target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path = page.parent / target if target else page
        assert path.exists(), f"{name(page)} links to {target}, which does not exist."
        if path.suffix == ".md" and anchor:
            assert anchor in headings(path), (
                f"{name(page)} links to {target}#{anchor}, but the page has no such heading."
            )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_link_to_a_line_quotes_what_stands_there(page: Path) -> None:
    """A link `[quoted code](file.py#L12)`; where a line has moved, the failure names the new one."""
    moved = []
    for quoted, target, number in LINE.findall(page.read_text(encoding="utf-8")):
        lines = (page.parent / target).read_text(encoding="utf-8").splitlines()
        if int(number) > len(lines) or quoted not in lines[int(number) - 1]:
            found = [str(at) for at, line in enumerate(lines, start=1) if quoted in line]
            where = f"in line {' or '.join(found)}" if found else "nowhere in the file"
            moved.append(f"{target}#L{number}: `{quoted}` is {where}.")
    assert not moved, f"{name(page)}:\n" + "\n".join(moved)


def test_every_point_of_paper_against_code_names_our_line_and_its_test(shared: Path) -> None:
    page = (REPOSITORY / "destseg_anomalib" / "models" / "README.md").read_text(encoding="utf-8")
    rows = {int(row[1]): row[0] for row in ROWS.finditer(page)}
    section = (shared / "MODELS.md").read_text(encoding="utf-8").partition("\n## 7.")[2].partition("\n## ")[0]
    assert sorted(rows) == [int(row[1]) for row in ROWS.finditer(section)]
    for number, row in rows.items():
        targets = [target for _, target, _ in LINE.findall(row)]
        assert any("tests/" not in target for target in targets), f"Row {number} names no line of ours."
        assert any("tests/" in target for target in targets), f"Row {number} names no test."


def rooms_used_by(room: Path) -> set[str]:
    """Rooms of the package that the files of one import."""
    files = room.rglob("*.py") if room.is_dir() else [room.with_suffix(".py")]
    imports = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    modules = {node.module or "" for node in imports if isinstance(node, ast.ImportFrom) and not node.level}
    modules |= {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    used = {module.split(".")[1] for module in modules if module.startswith("destseg_anomalib.")}
    return used - {room.name}


def test_rooms_use_each_other_as_the_page_says() -> None:
    package = REPOSITORY / "destseg_anomalib"
    page = (package / "README.md").read_text(encoding="utf-8").partition("## The house")[2].partition("\n## ")[0]
    said = {
        re.findall(r"`(\w+)`", row[0])[0]: set(re.findall(r"`(\w+)`", row[2]))
        for row in (line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith(("| `", "| [`")))
    }
    modules = {path.stem for path in package.glob("*.py") if not path.stem.startswith("_")}
    assert set(said) == modules | {path.parent.name for path in package.glob("*/__init__.py")}
    assert {room: rooms_used_by(package / room) for room in said} == said


def test_networks_know_neither_trainers_nor_data() -> None:
    models = REPOSITORY / "destseg_anomalib" / "models"
    networks = [*models.glob("*/torch_model.py"), *models.glob("*/attention.py")]
    networks += [
        models / f"{name}.py" for name in ("blocks", "losses", "similarity", "student", "student_teacher", "teacher")
    ]
    for path in networks:
        text = path.read_text(encoding="utf-8")
        assert not re.search(
            r"^ *(from|import) (lightning|destseg_anomalib\.(data|metrics|synthesis))", text, re.MULTILINE
        )
        assert set(re.findall(r"from anomalib\.\S+ import (.*)", text)) <= {"InferenceBatch"}
