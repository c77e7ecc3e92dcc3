#!/usr/bin/env python3
"""What a test run skipped, and why: reads the JUnit file that ctest writes.

A skipped test looks like a passed one in ctest's summary, and its reason is in a log nobody reads.
"""
import re
import sys
import xml.etree.ElementTree as xml
from collections import defaultdict

# What gtest prints for a skipped case: "file:line: Skipped", the reason, a line with the name.
SKIPPED = re.compile(r"^\S+:\d+: Skipped\n(.*?)^\[  SKIPPED \] (\S+) \(", re.MULTILINE | re.DOTALL)


def main(path):
    names = defaultdict(list)
    for case in xml.parse(path).iter("testcase"):
        for reason, name in SKIPPED.findall(case.findtext("system-out") or ""):
            names[reason.strip() or "no reason given"].append(name)
    for reason, cases in sorted(names.items(), key=lambda item: -len(item[1])):
        shown = ", ".join(cases[:3]) + (", .." if len(cases) > 3 else "")
        print(f"skipped {len(cases)}: {reason}\n    {shown}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} JUNIT_FILE")
    main(sys.argv[1])
