"""House rules that a machine can check: each violation is printed with its place and the rule."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINES_MAX = 900
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "managers"}
#: Words that say where the code was made instead of what it does, and hosts that only one network knows.
FORBIDDEN_TEXT = re.compile(r"/work/|pypi\.org|files\.pythonhosted|index-url|\bTODO\b|\bFIXME\b|\bXXX\b")


def tracked() -> list[Path]:
    """Files that git tracks or would add."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [ROOT / line for line in listing.splitlines() if (ROOT / line).is_file()]


def python_problems(path: Path, text: str) -> list[str]:
    """Rules about one Python file."""
    problems = []
    lines = text.count("\n")
    if lines > LINES_MAX:
        problems.append(f"{lines} lines exceed {LINES_MAX}: look for the second noun inside")
    tree = ast.parse(text)
    inside = path.relative_to(ROOT).parts[0] == "swarmlet"
    if inside and not ast.get_docstring(tree):
        problems.append("no module docstring: say what this module is for")
    if path.stem in FORBIDDEN_NAMES:
        problems.append(f"'{path.stem}' is a dumping ground by name: name the noun")
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            problems.append(f"line {node.lineno}: bare except; catch the narrowest class")
    return problems


def main() -> int:
    """Check every file; exit code 1 if any rule is broken."""
    failed = 0
    for path in tracked():
        if path.suffix not in {".py", ".md", ".toml", ".hcl", ""} or path.name == "LICENSE":
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        problems = python_problems(path, text) if path.suffix == ".py" else []
        if path.name != "house_rules.py":
            problems += [
                f"line {number}: '{found.group()}' does not belong in the project"
                for number, line in enumerate(text.splitlines(), 1)
                if (found := FORBIDDEN_TEXT.search(line))
            ]
        for problem in problems:
            print(f"{path.relative_to(ROOT)}: {problem}")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
