#!/usr/bin/env python3
"""Checks that every system test is run: each suite of tests/system must match the filter of a row of its
CMakeLists.txt. A test in no row passes by never being run.
"""
import fnmatch
import pathlib
import re
import sys

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests/system"
TEST = re.compile(r"^TEST(_F|_P)?\((\w+),\s*(\w+)\)", re.M)
PREFIX = re.compile(r"INSTANTIATE_TEST_SUITE_P\(\s*(\w*),\s*(\w+),")
ROW = re.compile(r"system_test\([\w.${}]+ ([^)$]\S*)\)")


def main():
    rows = (FOLDER / "CMakeLists.txt").read_text().replace("${kernel}", "6_1_cloud")
    filters = [pattern for row in ROW.findall(rows) for pattern in row.split("-")[0].split(":")]
    missing = []
    for path in sorted(FOLDER.glob("*.cpp")):
        text = path.read_text()
        prefixes = {suite: prefix for prefix, suite in PREFIX.findall(text)}
        for kind, suite, name in TEST.findall(text):
            prefix = prefixes.get(suite, "")
            whole = f"{prefix}/{suite}.{name}" if prefix else f"{suite}.{name}"
            if kind == "_P":
                whole += "/kernel_6_1_cloud"
            if not any(fnmatch.fnmatchcase(whole, pattern) for pattern in filters):
                missing.append(f"{path.name}: {whole} is in no row of tests/system/CMakeLists.txt")
    for problem in missing:
        print(problem, file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
