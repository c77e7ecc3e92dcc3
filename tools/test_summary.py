#!/usr/bin/env python3
"""What a test run skipped and what failed, and why: reads the JUnit file that ctest writes.

A skipped test looks like a passed one in ctest's summary, and its reason is in a log nobody reads.
Why a test failed is in the middle of a long log; whoever sees only the end of it is to know too.
"""
import re
import sys
import xml.etree.ElementTree as xml
from collections import defaultdict

# What gtest prints for a skipped case: "file:line: Skipped", the reason, a line with the name.
SKIPPED = re.compile(r"^\S+:\d+: Skipped\n(.*?)^\[  SKIPPED \] (\S+) \(", re.MULTILINE | re.DOTALL)
# .. and for a failed one: "file:line: Failure", what was expected, perhaps more, its name.
FAILED = re.compile(r"^(?:\S+:\d+|unknown file): Failure\n.*?(?=^\[|\Z)", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"^\[  FAILED  \] (\S+?),? ", re.MULTILINE)
LINES = 40


def skipped(cases):
    names = defaultdict(list)
    for case in cases:
        for reason, name in SKIPPED.findall(case.findtext("system-out") or ""):
            names[reason.strip() or "no reason given"].append(name)
    for reason, ones in sorted(names.items(), key=lambda item: -len(item[1])):
        shown = ", ".join(ones[:3]) + (", .." if len(ones) > 3 else "")
        print(f"skipped {len(ones)}: {reason}\n    {shown}")


def failed(cases):
    for case in cases:
        if case.get("status") != "fail":
            continue
        text = case.findtext("system-out") or ""
        names = ", ".join(dict.fromkeys(NAME.findall(text)))
        print(f"failed: {case.get('name')}{': ' + names if names else ''}")
        lines = [line for found in FAILED.findall(text) for line in found.splitlines()]
        # One that was killed, or that ended by itself, says why last.
        if not names or "unknown file" in text or "internal error" in text:
            lines += text.splitlines()[-LINES // 2:]
        for line in lines[:LINES]:
            print(f"    {line[:300]}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} JUNIT_FILE")
    all_cases = list(xml.parse(sys.argv[1]).iter("testcase"))
    skipped(all_cases)
    failed(all_cases)
