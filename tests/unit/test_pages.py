# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""What the pages point at is there: files, headings, quoted lines, tests, and the rooms with their floors."""

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
QUOTE = re.compile(r"\[`([^`]+)`\]\(([^)#\s]+\.py)\)")
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
def test_a_link_to_code_quotes_what_stands_there(page: Path) -> None:
    """A link `[quoted code](file.py)`, or `[test_name](tests/file.py)`, where the name may be cut short."""
    gone = []
    for quoted, target in QUOTE.findall(page.read_text(encoding="utf-8")):
        text = (page.parent / target).read_text(encoding="utf-8")
        wanted = f"def {quoted}" if quoted.startswith("test_") else quoted
        if quoted != Path(target).name and not any(wanted in line for line in text.splitlines()):
            gone.append(f"{target}: `{quoted}` is nowhere in the file.")
    assert not gone, f"{name(page)}:\n" + "\n".join(gone)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_link_breaks_with_an_edit_above_its_line(page: Path) -> None:
    assert not re.findall(r"\]\([^)\s]*#L\d+", page.read_text(encoding="utf-8"))


def test_every_point_of_paper_against_code_names_our_line_and_its_test(shared: Path) -> None:
    page = (REPOSITORY / "destseg_anomalib" / "models" / "README.md").read_text(encoding="utf-8")
    rows = {int(row[1]): row[0] for row in ROWS.finditer(page)}
    section = (shared / "MODELS.md").read_text(encoding="utf-8").partition("\n## 7.")[2].partition("\n## ")[0]
    differing = [int(row[1]) for row in ROWS.finditer(section)]
    assert sorted(rows) == list(range(1, len(rows) + 1))
    assert sorted(rows)[: len(differing)] == differing  # then come points that neither the paper nor the code has
    for number, row in rows.items():
        targets = [target for _, target in QUOTE.findall(row)]
        assert any("tests/" not in target for target in targets), f"Row {number} names no line of ours."
        assert any("tests/" in target for target in targets), f"Row {number} names no test."


PACKAGE = REPOSITORY / "destseg_anomalib"


def modules_used_by(file: Path) -> set[str]:
    """Modules of the package that a file imports, for types or inside a function as well, by their dotted names."""
    here = (PACKAGE.name, *file.relative_to(PACKAGE).with_suffix("").parts)
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = (
                ".".join([*here[: len(here) - node.level], *filter(None, [node.module])]) if node.level else node.module
            )
            found |= {f"{home}.{alias.name}" if is_module(f"{home}.{alias.name}") else home for alias in node.names}
    return {module for module in found if module.startswith(f"{PACKAGE.name}.")}


def is_module(dotted: str) -> bool:
    path = REPOSITORY.joinpath(*dotted.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def rooms_used_by(room: Path) -> set[str]:
    """Rooms of the package that the files of one import."""
    files = room.rglob("*.py") if room.is_dir() else [room.with_suffix(".py")]
    return {module.split(".")[1] for file in files for module in modules_used_by(file)} - {room.name}


def floors() -> list[tuple[str, set[str]]]:
    """Rows of the page's table of rooms, from the ground: the rooms of each, and what they may use."""
    page = (PACKAGE / "README.md").read_text(encoding="utf-8").partition("## The house")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith(("| `", "| [`"))]
    return [(re.findall(r"`(\w+)`", row[0])[0], set(re.findall(r"`(\w+)`", row[2]))) for row in rows]


def test_rooms_use_each_other_as_the_page_says() -> None:
    said = dict(floors())
    modules = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_")}
    assert set(said) == modules | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {room: rooms_used_by(PACKAGE / room) for room in said} == said


def test_no_arrow_runs_up() -> None:
    """The table begins at the ground: a room uses only rooms that stand above it in the table."""
    below: set[str] = set()
    for room, used in floors():
        assert used <= below, f"{room} uses {used - below}, which stand on a higher floor."
        below.add(room)


def test_no_circle_of_modules() -> None:
    """Nor do two modules need each other, be it for types alone."""
    files = {
        ".".join([PACKAGE.name, *file.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): file
        for file in PACKAGE.rglob("*.py")
    }
    arrows = {module: modules_used_by(file) & files.keys() for module, file in files.items()}
    while free := {module for module, used in arrows.items() if not used}:
        arrows = {module: used - free for module, used in arrows.items() if module not in free}
    assert not arrows, f"In a circle, or behind one: {arrows}."


def test_only_the_lightning_models_know_training_and_deployment() -> None:
    for file in (PACKAGE / "models").rglob("*.py"):
        used = {module.split(".")[1] for module in modules_used_by(file)}
        assert file.name == "lightning_model.py" or used <= {"models", "plugin"}, f"{file} uses {used}."


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
