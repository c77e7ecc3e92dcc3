#!/usr/bin/python3
"""The demo: a small guest hides a process, and you see who notices.

Boots a guest with a stock Debian kernel, puts it under an agent of its own (which touches neither the
installed agent nor its log), hides a process inside, and shows what the guest says, what Underseer
sees, the alert, and the signed log. Then it leaves everything running until Ctrl-C.

Usage: underseer demo [--once]          (from a source tree: ./dev run --demo [--once])
"""
import json
import os
import pathlib
import queue
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
KERNEL = "6.1-cloud"
PATIENCE = 120  # seconds that anything but a download may take
TERMINAL = sys.stdout.isatty()
BOLD, DIM, RED, GREEN, PLAIN = ("\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[0m") if TERMINAL else ("",) * 5
# What it takes to make the guest, and the Debian package that has it.
NEEDED = {"busybox": "busybox-static", "cpio": "cpio", "gcc": "gcc", "make": "make", "xz": "xz-utils",
          "/usr/include/libelf.h": "libelf-dev", "/usr/lib/x86_64-linux-gnu/libc.a": "libc6-dev"}


class Failed(Exception):
    """The demo cannot go on, and why."""


def title(text):
    print(f"\n{BOLD}━━ {text}{PLAIN}", flush=True)


def remark(text):
    print(f"   {DIM}{text}{PLAIN}", flush=True)


class waiting:
    """Says what is being waited for, and how long it took."""

    def __init__(self, what):
        self.what = what

    def __enter__(self):
        print(f"   {DIM}{self.what} ...{PLAIN}", end="", flush=True)
        self.began = time.monotonic()

    def __exit__(self, failure, *_):
        print("" if failure else f" {DIM}{time.monotonic() - self.began:.1f} s{PLAIN}", flush=True)


def until(condition, what):
    """The first true answer of `condition`, which is asked again and again."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise Failed(f"waited {PATIENCE} s in vain {what}")
        time.sleep(0.1)


def missing_packages(guest_is_made):
    wanted = {"qemu-system-x86_64": "qemu-system-x86"} | ({} if guest_is_made else NEEDED)
    return sorted(package for thing, package in wanted.items()
                  if not (os.path.exists(thing) if thing.startswith("/") else shutil.which(thing)))


def make_guest():
    """The folder of the guest's kernel and initial RAM disk; made when it is not in the cache."""
    maker = HERE / "guests/make.py"
    listed = json.loads(subprocess.run([maker, "--list", KERNEL], check=True, stdout=subprocess.PIPE).stdout)
    missing = missing_packages(KERNEL in listed)
    if missing:
        raise Failed(f"this needs some packages more: apt install {' '.join(missing)}")
    if KERNEL not in listed:
        remark("The first time, a Debian kernel is fetched with the package manager and the hiding module is built.")
    done = subprocess.run([maker, KERNEL], stdout=subprocess.PIPE, stderr=subprocess.PIPE if listed else None)
    made = json.loads(done.stdout) if done.returncode == 0 else {}
    if KERNEL not in made:
        raise Failed(f"the kernel {KERNEL} is not to be had; is there a Debian mirror in /etc/apt?")
    return pathlib.Path(made[KERNEL]["folder"]), made[KERNEL]["release"]


def start(command, **more):
    """A child that does not outlive us, however we end, and that a Ctrl-C does not reach before us."""
    return subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command], stdin=subprocess.DEVNULL,
                            start_new_session=True, **more)


class Guest:
    """A QEMU guest with a shell on its second serial port (its init is tests/testing/guest/init.sh)."""

    def __init__(self, name, folder, directory):
        shell = directory / "shell"
        self.qemu = start(
            ["qemu-system-x86_64", "-name", name, "-accel", "tcg", "-cpu", "max", "-m", "512",
             "-display", "none", "-nodefaults", "-no-user-config", "-nic", "none",
             "-kernel", folder / "vmlinuz", "-initrd", folder / "initrd.gz",
             "-append", "console=ttyS0 quiet panic=-1 underseer.idle", "-serial", f"file:{directory / 'console'}",
             "-chardev", f"socket,id=shell,path={shell},server=on,wait=off", "-serial", "chardev:shell"])
        self.line = socket.socket(socket.AF_UNIX)
        until(lambda: self.connect(shell), "for QEMU to start")
        self.line.settimeout(PATIENCE)
        self.stream = self.line.makefile("rwb")
        while b"ready" not in self.read_line():
            pass

    def connect(self, shell):
        if self.qemu.poll() is not None:
            raise Failed("QEMU did not start; what it said stands above")
        try:
            self.line.connect(str(shell))
        except OSError:
            return False
        return True

    def read_line(self):
        line = self.stream.readline()
        if not line:
            raise Failed("the guest has ended")
        return line

    def run(self, command):
        """The output of a shell command inside the guest."""
        self.stream.write(command.encode() + b"\n")
        self.stream.flush()
        _, size = self.read_line().split()
        return self.stream.read(int(size)).decode(errors="replace").strip()

    def ps(self, pid):
        """The line of the guest's own ps for this process."""
        lines = [line for line in self.run("ps").splitlines() if line.split()[:1] == [str(pid)]]
        return " ".join(lines)


class Agent:
    """An underseerd with directories of its own, and the command line that asks it."""

    def __init__(self, program, directory, vm):
        self.program, self.directory = program, directory
        self.run, self.state = ["--run", directory / "run"], ["--state", directory / "state"]
        policy = directory / "policy.toml"
        policy.write_text(f'[schedule]\nhidden_process = "1s"\ncpu_percent = 100\n[instances]\nonly = ["name:{vm}"]\n')
        daemon = next((path for path in (program.with_name("underseerd"), program.parents[1] / "sbin/underseerd")
                       if path.exists()), None)
        if not daemon:
            raise Failed(f"there is no underseerd beside {program}")
        self.said = directory / "agent.log"
        with open(self.said, "wb") as said:
            self.process = start([daemon, "--policy", policy, *self.run, *self.state], stderr=said)
        self.follower = None

    def ask(self, *words):
        where = self.state if words[0] == "log" else self.run
        return subprocess.run([self.program, *words, *where], text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)

    def watches(self, vm):
        """Whether it has looked into the VM and found it clean."""
        if self.process.poll() is not None:
            raise Failed("the agent ended: " + self.said.read_text(errors="replace")[-2000:])
        status = self.ask("status", "--json")
        instances = json.loads(status.stdout)["instances"] if status.returncode == 0 else []
        return any(one["instance"]["name"] == vm and one["last_outcome"] == "clean" for one in instances)

    def follow(self):
        """`underseer log follow` from now on: a queue of its lines."""
        known = len(self.ask("log", "show").stdout.splitlines())
        self.follower = start([self.program, "log", "follow", *self.state], text=True, stdout=subprocess.PIPE)
        lines = queue.Queue()

        def read():
            for number, line in enumerate(self.follower.stdout):
                if number >= known:
                    lines.put(line.rstrip())

        threading.Thread(target=read, daemon=True).start()
        return lines

    def end(self):
        for process in filter(None, [self.follower, self.process]):
            process.terminate()
            process.wait()


def show(agent, *words):
    """Runs `underseer WORDS` before everybody's eyes."""
    print(f"   $ underseer {' '.join(words)}", flush=True)
    done = agent.ask(*words)
    for line in (done.stdout + done.stderr).splitlines():
        print(f"     {line}" if line else "")
    return done


def show_process(agent, vm, pid):
    """The heading of `ps` and the line of one process; whether it is there."""
    print(f"   $ underseer ps {vm}", flush=True)
    heading, *lines = agent.ask("ps", vm).stdout.splitlines() or [""]
    mine = [line for line in lines if line.split()[:1] == [str(pid)]]
    print("\n".join(f"     {line}" for line in [heading, *mine]), flush=True)
    return bool(mine)


def show_in_tree(agent, vm, pid):
    print(f"   $ underseer tree {vm}", flush=True)
    lines = agent.ask("tree", vm).stdout.splitlines()
    mine = [line for line in lines if str(pid) in line.split()]
    print("\n".join(f"     {line}" for line in ([lines[0], "│    ..."] if lines else []) + mine), flush=True)


def play(program, directory, once):
    title("A small guest boots")
    folder, release = make_guest()
    running = json.loads(subprocess.run([program, "ls", "--json"], check=True, stdout=subprocess.PIPE).stdout)
    vm = "edge-demo" if all(one["name"] != "edge-demo" for one in running) else f"edge-demo-{os.getpid()}"
    remark(f"Stock Debian kernel {release} under QEMU. Nothing of Underseer is in it.")
    with waiting("booting"):
        guest = Guest(vm, folder, directory)
    agent = None
    try:
        title("The agent takes it under watch")
        agent = Agent(program, directory, vm)
        with waiting("finding the kernel in its memory, without a profile; then the first check"):
            until(lambda: agent.watches(vm), "for the agent to look into the guest")
        show(agent, "info", vm)

        title("A process starts in it, as anybody sees")
        pid = int(guest.run("/bin/workload sleeper > /dev/null & echo $!"))
        until(lambda: "workload" in guest.ps(pid), "for the process to start")
        print(f"   {DIM}the guest's own ps:{PLAIN}\n     {guest.ps(pid)}")
        show_process(agent, vm, pid)

        title("It hides")
        remark("A kernel module in the guest takes it off the task list, the pid table and its cgroup.")
        lines = agent.follow()
        said = guest.run("insmod /lib/modules/underseer_hide.ko && "
                         f"echo '3 {pid}' > /sys/module/underseer_hide/parameters/command")
        hidden = guest.ps(pid) == ""
        began = time.monotonic()
        print(f"   {DIM}the guest's own ps:{PLAIN}\n     {RED}{guest.ps(pid) or '(nothing)'}{PLAIN}")
        if not hidden:
            raise Failed(f"the process could not be hidden; the guest says: {said or '(nothing)'}")
        seen = show_process(agent, vm, pid)
        show_in_tree(agent, vm, pid)

        title("The alert")
        remark("The agent compares seven lists of the guest's kernel, every second here, and looks again five")
        remark("times before it accuses anybody.")
        print("   $ underseer log follow", flush=True)
        alert = ""
        while "Process hidden" not in alert:
            try:
                alert = lines.get(timeout=max(0.1, began + PATIENCE - time.monotonic()))
            except queue.Empty:
                raise Failed("the agent has raised no alert: " + agent.said.read_text(errors="replace")[-2000:]) from None
            print(f"     {RED if 'Process hidden' in alert else ''}{alert}{PLAIN}", flush=True)
        remark(f"{time.monotonic() - began:.1f} s after it hid.")
        open_findings = show(agent, "findings").returncode
        show(agent, "status")

        title("The log is chained and signed; anybody with the public key can check it")
        intact = show(agent, "log", "verify").returncode == 0

        good = seen and open_findings == 1 and intact
        print(f"\n{BOLD}{GREEN if good else RED}"
              f"{'Hidden inside, seen from below, told, and on record.' if good else 'The demo has FAILED.'}{PLAIN}")
        if good and not once:
            stay(agent, guest, vm, pid, lines)
        return 0 if good else 1
    finally:
        if agent:
            agent.end()
        guest.qemu.kill()
        guest.qemu.wait()


def stay(agent, guest, vm, pid, lines):
    """Leaves guest and agent running, and the log on the screen."""
    run, state = (shlex.join(map(str, pair)) for pair in (agent.run, agent.state))
    program = os.path.relpath(agent.program) if not str(agent.program).startswith("/usr/") else "underseer"
    print("\nGuest and agent stay until Ctrl-C. From another terminal, as root:\n")
    for words in ("status --watch", f"ps {vm}", f"files {vm} --pid {pid}", f"tree {vm}", "findings", "log show",
                  "log verify"):
        print(f"   {program} {words} {state if words.startswith('log') else run}")
    print(f"\n{DIM}What the agent logs from here on:{PLAIN}", flush=True)
    while guest.qemu.poll() is None and agent.process.poll() is None:
        try:
            print(f"   {lines.get(timeout=1)}", flush=True)
        except queue.Empty:
            pass
    raise Failed("the guest has ended" if guest.qemu.poll() is not None else "the agent has ended")


def main():
    words = sys.argv[1:]
    once = "--once" in words
    words = [word for word in words if word != "--once"]
    if len(words) != 1 or words[0].startswith("-"):
        raise SystemExit(__doc__)
    if os.geteuid() != 0:
        raise SystemExit("demo: reading a VM's memory needs root; run it with sudo")
    if HERE.is_relative_to("/usr"):
        os.environ.setdefault("UNDERSEER_CACHE", "/var/cache/underseer")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = pathlib.Path(tempfile.mkdtemp(prefix="underseer-demo-"))
    try:
        return play(pathlib.Path(words[0]).resolve(), directory, once)
    except Failed as failure:
        print(f"\ndemo: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nGuest and agent have ended.")
        return 0
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
