#!/usr/bin/env python3
"""Writes docs/detection-matrix.md: which technique is found in which kernel.

    tools/detection_matrix.py LOG.. > docs/detection-matrix.md

LOG is what the intrusion tests printed (build/dev/tests/system_test --gtest_filter='*Intrusion*').
Every row is a test in tests/system/intrusion_test.cpp: it does the thing in a guest, wants exactly the
finding that belongs to it, and none when it has ended.
"""
import re
import sys
from collections import defaultdict

RESULT = re.compile(r"^\[ +(OK|FAILED|SKIPPED) +\] (?:\w+/)?(?!KernelCode)\w+\.(\w+)/kernel_(\w+) \(", re.M)
REASON = re.compile(r": Skipped\n(.*)\n")


def main(paths):
    cells, kernels = defaultdict(dict), []
    for path in paths:
        with open(path) as log:
            text = log.read()
        for found in RESULT.finditer(text):
            outcome, technique, kernel = found.groups()
            if kernel not in kernels:
                kernels.append(kernel)
            right = "not told" if technique.endswith("is_none") else "found"
            words = {"OK": right, "FAILED": "**failed**"}.get(outcome)
            if not words:
                reason = REASON.findall(text[: found.start()])
                words = f"unavailable: {reason[-1] if reason else 'skipped'}"
            cells[technique][kernel] = words
    kernels.sort(key=lambda kernel: [int(part) if part.isdigit() else part for part in kernel.split("_")])
    print("# What is found in which kernel\n")
    print("Made by the tests (`tools/detection_matrix.py`), a row a test in")
    print("`tests/system/intrusion_test.cpp`. `underseer explain` says what each rule rests on.\n")
    print("| technique | " + " | ".join(kernel.replace("_", ".", 1).replace("_", " ") for kernel in kernels) + " |")
    print("|---" * (len(kernels) + 1) + "|")
    for technique, row in cells.items():
        words = [row.get(kernel, "not tested") for kernel in kernels]
        print(f"| {technique.replace('_', ' ')} | " + " | ".join(words) + " |")
    missing = sum(cell not in ("found", "not told") for row in cells.values() for cell in row.values())
    whole = sum(len(row) for row in cells.values())
    print(f"\n{whole - missing} of {whole} as they should be.")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
