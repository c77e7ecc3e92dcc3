#!/usr/bin/env python3
"""Checks every #include under src/ and apps/ against src/modules.txt.

A module may include itself and the modules that its line names; those must be of lower levels. At
most five headers of a module may be included from outside it; of level 0, whose headers are single
types that everything is made of, eight.
"""
import collections
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
INCLUDE = re.compile(r'^\s*#\s*include\s+"([a-z_]+)/([^"]+)"', re.M)
MAX_PUBLIC_HEADERS = 5
MAX_BASE_HEADERS = 8


def read_table():
    table = {}
    for line in (ROOT / "src/modules.txt").read_text().splitlines():
        match = re.match(r"(\d+)\s+([a-z_]+)\s*:(.*)", line)
        if match:
            table[match[2]] = (int(match[1]), match[3].split())
    return table


def main():
    table = read_table()
    problems = []
    for module, (level, dependencies) in table.items():
        for other in dependencies:
            if other not in table:
                problems.append(f"src/modules.txt: {module} depends on {other}, which has no line")
            elif table[other][0] >= level:
                problems.append(f"src/modules.txt: {module} (level {level}) depends on {other} "
                                f"(level {table[other][0]}), which is not lower")
    public = collections.defaultdict(set)
    for path in sorted((ROOT / "src").rglob("*")):
        if path.suffix not in (".h", ".cpp"):
            continue
        module = path.relative_to(ROOT / "src").parts[0]
        if module not in table:
            problems.append(f"{path.relative_to(ROOT)}: module {module} has no line in src/modules.txt")
            continue
        for other, header in INCLUDE.findall(path.read_text()):
            if other == module:
                continue
            test = path.name.endswith("_test.cpp") or path.name.startswith("fake_")
            if other not in table[module][1] and not (test and table[other][0] < table[module][0]):
                problems.append(f"{path.relative_to(ROOT)}: {module} may not include {other}/{header}")
            if not header.startswith("fake_"):
                public[other].add(header)
    for path in sorted((ROOT / "apps").rglob("*.cpp")):
        for other, header in INCLUDE.findall(path.read_text()):
            if other in table:
                public[other].add(header)
    for module, headers in public.items():
        most = MAX_BASE_HEADERS if table[module][0] == 0 else MAX_PUBLIC_HEADERS
        if len(headers) > most:
            problems.append(f"src/{module}: {len(headers)} headers are included from outside "
                            f"({', '.join(sorted(headers))}); at most {most}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
