#!/usr/bin/env python3
"""The demo: boots a small guest, hides a process inside it, and shows who sees what.

Usage: tools/demo.py UNDERSEER_PROGRAM [--once]
"""
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
KERNEL = "6.1-cloud"
NAME = "edge-demo"
BOLD, RED, GREEN, PLAIN = ("\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[0m") if sys.stdout.isatty() else ("",) * 4


def title(text):
    print(f"\n{BOLD}== {text}{PLAIN}", flush=True)


class Guest:
    """A QEMU guest with a shell on its second serial port (tests/testing/guest/init.sh)."""

    def __init__(self, kernel, directory):
        shell = directory / "shell"
        self.qemu = subprocess.Popen(
            ["qemu-system-x86_64", "-name", NAME, "-accel", "tcg", "-cpu", "max", "-m", "512",
             "-display", "none", "-nodefaults", "-no-user-config", "-nic", "none",
             "-kernel", kernel / "vmlinuz", "-initrd", kernel / "initrd.gz",
             "-append", "console=ttyS0 quiet panic=-1", "-serial", f"file:{directory / 'console'}",
             "-chardev", f"socket,id=shell,path={shell},server=on,wait=off", "-serial", "chardev:shell"])
        self.line = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + 120
        while True:
            try:
                self.line.connect(str(shell))
                break
            except OSError:
                if self.qemu.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("demo: the guest did not start")
                time.sleep(0.05)
        self.stream = self.line.makefile("rwb")
        while b"ready" not in self.stream.readline():
            pass

    def run(self, command):
        self.stream.write(command.encode() + b"\n")
        self.stream.flush()
        status, size = self.stream.readline().split()
        return int(status), self.stream.read(int(size)).decode(errors="replace")

    def end(self):
        self.qemu.kill()
        self.qemu.wait()


def show(program, *arguments, keep=lambda line: True):
    print(f"$ underseer {' '.join(arguments)}", flush=True)
    done = subprocess.run([program, *arguments], text=True, stdout=subprocess.PIPE)
    for line in done.stdout.splitlines():
        if keep(line):
            print(f"  {line}")
    return done.returncode


def play(program, directory, once):
    title("A guest boots: a stock Debian kernel, nothing of ours in it but the fixture that will hide")
    made = json.loads(subprocess.run([ROOT / "tools/guests/make.py", KERNEL], check=True,
                                     stdout=subprocess.PIPE).stdout)
    if KERNEL not in made:
        raise SystemExit(f"demo: the kernel {KERNEL} is not to be had; is there a package mirror?")
    guest = Guest(pathlib.Path(made[KERNEL]["folder"]), directory)
    try:
        show(program, "ls")
        show(program, "info", NAME)
        title("A process in it, seen from inside and from below")
        pid = guest.run("/bin/workload sleeper > /dev/null & echo $!")[1].strip()
        time.sleep(1)
        print(f"  the guest's own ps:  {guest.run(f'ps | grep -w {pid} | grep -v grep')[1].strip()}")
        mine = lambda line: line.split()[:1] in (["PID"], [pid])
        show(program, "ps", NAME, keep=mine)
        title("The fixture hides it: from the task list, from the pid table, from its cgroup")
        guest.run("insmod /lib/modules/underseer_hide.ko")
        guest.run(f"echo '3 {pid}' > /sys/module/underseer_hide/parameters/command")
        seen = guest.run(f"ps | grep -w {pid} | grep -v grep")[1].strip()
        print(f"  the guest's own ps:  {RED}{seen or '(nothing)'}{PLAIN}")
        show(program, "ps", NAME, keep=mine)
        title("The check")
        found = show(program, "check", NAME) == 1
        print(f"\n{GREEN if found else RED}{'The hidden process was found.' if found else 'NOT FOUND'}{PLAIN}")
        if not once:
            print("\nThe guest stays up for you to look around (underseer ps|tree|files|sockets "
                  f"{NAME}); Ctrl-C ends it.", flush=True)
            while guest.qemu.poll() is None:
                time.sleep(1)
        return 0 if found else 1
    finally:
        guest.end()


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    if os.geteuid() != 0:
        raise SystemExit("demo: reading a VM's memory needs root; run it with sudo")
    directory = pathlib.Path(tempfile.mkdtemp(prefix="underseer-demo-"))
    try:
        return play(sys.argv[1], directory, "--once" in sys.argv)
    except KeyboardInterrupt:
        return 0
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
