#!/usr/bin/python3
"""Tests the Debian package as an administrator meets it, in a clean Debian 12.

Usage: packaging/test_package.py FOLDER [FOLDER_OF_A_SECOND_BUILD]

Installs the package of FOLDER into a new root, boots its service there under systemd (in a container),
with a VM to watch when a guest kernel is at hand; changes a program; removes and purges. Needs root.
"""
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[1]
sys.dont_write_bytecode = True
GUESTS = importlib.util.spec_from_file_location("make", SOURCE / "tools/guests/make.py")
guests = importlib.util.module_from_spec(GUESTS)
GUESTS.loader.exec_module(guests)
LATEST_EXPOSURE = 40  # tenths, of `systemd-analyze security`; more is a step back
KERNEL = "6.1-cloud"


def run(*command, check=True, **more):
    done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, **more)
    if check and done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done


def package_in(folder):
    return next(path for path in sorted(pathlib.Path(folder).glob("underseer_*_amd64.deb")))


def field(deb, name):
    return run("dpkg-deb", "--field", deb, name).stdout.strip()


class Root:
    """A clean Debian 12 with what the package depends on, and systemd."""

    def __init__(self, deb):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="underseer-package-"))
        self.path = self.directory / "root"
        depends = [re.split(r"[ (|]", one.strip())[0] for one in field(deb, "Depends").split(",")]
        suite = guests.Suite("bookworm")
        run("mmdebstrap", "--quiet", "--variant=minbase", *guests.host_apt_options(),
            f"--include={','.join([*depends, 'systemd-sysv'])}", "bookworm", self.path, suite.dir / "sources.list")
        shutil.copy(deb, self.path / "root/underseer.deb")
        self.container = self.vm = None

    def inside(self, *command, **more):
        return run("chroot", self.path, *command, **more)

    def boot(self):
        with open(self.directory / "boot", "wb") as log:
            self.container = subprocess.Popen(
                ["systemd-nspawn", "--quiet", "-D", self.path, "--boot", "--register=no", "--keep-unit",
                 "--console=pipe"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        children = pathlib.Path(f"/proc/{self.container.pid}/task/{self.container.pid}/children")
        self.leader = wait_for(lambda: children.read_text().split()[:1], "the container to start")[0]
        wait_for(lambda: self.booted("systemctl", "is-system-running", check=False).stdout.strip()
                 in ("running", "degraded"), "the container to boot")

    def booted(self, *command, **more):
        """Runs a command in the booted container."""
        return run("nsenter", "-t", self.leader, "-a", *command, **more)

    def start_vm(self, name):
        """QEMU of the host, as a process of the container; None without a guest kernel."""
        if not guest_is_at_hand():
            return None
        folder = guests.cache_dir() / "kernels" / KERNEL
        self.vm = subprocess.Popen(
            ["nsenter", "-t", self.leader, "-p", "qemu-system-x86_64", "-name", name, "-accel", "tcg", "-cpu", "max",
             "-m", "512", "-display", "none", "-nodefaults", "-nic", "none", "-kernel", folder / "vmlinuz",
             "-initrd", folder / "initrd.gz", "-append", "console=ttyS0 quiet panic=-1 underseer.idle",
             "-serial", "null", "-serial", "null"], stdin=subprocess.DEVNULL, start_new_session=True)
        return self.vm

    def end(self):
        if self.vm:
            os.killpg(self.vm.pid, signal.SIGKILL)
            self.vm.wait()
        if self.container:
            os.kill(int(self.leader), signal.SIGRTMIN + 4)  # poweroff.target, systemd(1)
            try:
                self.container.wait(60)
            except subprocess.TimeoutExpired:
                self.container.kill()
                self.container.wait()
        self.vm = self.container = None

    def remove(self):
        self.end()
        shutil.rmtree(self.directory)


def guest_is_at_hand():
    made = (guests.cache_dir() / "kernels" / KERNEL / "initrd.gz").exists()
    return made and shutil.which("qemu-system-x86_64")


def wait_for(condition, what, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            answer = condition()
        except (AssertionError, OSError, ValueError, KeyError):
            answer = None
        if answer:
            return answer
        time.sleep(0.3)
    raise AssertionError(f"waited {seconds} s in vain for {what}")


class PackageTest(unittest.TestCase):
    """In the order of the names: each goes on from where the one before has left the root."""

    folder = again = root = deb = None

    @classmethod
    def setUpClass(cls):
        cls.deb = package_in(cls.folder)
        cls.root = Root(cls.deb)

    @classmethod
    def tearDownClass(cls):
        cls.root.remove()

    def state(self, *words):
        return self.root.path.joinpath("var/lib/underseer", *words)

    def test_01_two_builds_give_the_same_bytes(self):
        if not self.again:
            self.skipTest("there is no second build")
        for first in sorted(pathlib.Path(self.folder).glob("*.deb")):
            second = pathlib.Path(self.again) / first.name
            self.assertEqual(hashlib.sha256(first.read_bytes()).hexdigest(),
                             hashlib.sha256(second.read_bytes()).hexdigest(), first.name)

    def test_02_lintian_has_nothing_to_say(self):
        told = run("lintian", "--allow-root", "--fail-on", "error,warning",
                   "--display-info", self.deb, check=False)
        serious = [line for line in told.stdout.splitlines() if re.match(r"[EW]: ", line)]
        self.assertEqual(serious, [])

    def test_03_the_programs_are_hardened(self):
        run("dpkg-deb", "--extract", self.deb, self.root.directory / "files")
        for program in ("usr/bin/underseer", "usr/sbin/underseerd"):
            path = self.root.directory / "files" / program
            read = run("readelf", "--wide", "--file-header", "--dynamic", "--program-headers", path).stdout
            for sign in ("DYN (Position-Independent", "BIND_NOW", "GNU_RELRO"):
                self.assertIn(sign, read, program)
            self.assertNotRegex(read, r"GNU_STACK.*RWE", program)
            imports = run("readelf", "--wide", "--dyn-syms", path).stdout
            for symbol in ("__stack_chk_fail", "_chk@"):
                self.assertIn(symbol, imports, program)
            self.assertNotIn(str(SOURCE).encode(), path.read_bytes(), "a path of the build")

    def test_04_the_unit_is_valid_and_confined(self):
        unit = self.root.directory / "files/lib/systemd/system/underseerd.service"
        judged = run("systemd-analyze", "security", "--offline=true", f"--threshold={LATEST_EXPOSURE}", unit, check=False)
        self.assertEqual(judged.returncode, 0, judged.stdout)

    def test_04_the_installed_demo_plays(self):
        if not guest_is_at_hand():
            self.skipTest(f"the guest kernel {KERNEL} is not at hand")
        shown = run(self.root.directory / "files/usr/bin/underseer", "demo", "--once",
                    env=os.environ | {"UNDERSEER_CACHE": str(guests.cache_dir())})
        self.assertIn("Hidden inside, seen from below, told, and on record.", shown.stdout)

    def test_05_installs_and_seals(self):
        installed = self.root.inside("dpkg", "--install", "/root/underseer.deb")
        self.assertIn("signed", installed.stdout)
        sealed = [json.loads(line).get("path") for line in self.state("manifest").read_text().splitlines()]
        self.assertEqual(sealed[:3], ["/etc/underseer/policy.toml", "/usr/bin/underseer", "/usr/sbin/underseerd"])
        self.assertEqual(self.state("keys/enrolment.pem").stat().st_mode & 0o777, 0o600)
        self.assertIn("usage: underseer", self.root.inside("underseer", "--help").stdout)
        self.assertIn("a valid policy",
                      self.root.inside("underseerd", "--check-policy", "/etc/underseer/policy.toml").stdout)
        self.assertIn("sigma:reverse_shell_bash", self.root.inside("underseer", "rules", "ls").stdout)
        self.assertIn("/usr/share/underseer/rules/reverse_shell_bash.yml", sealed)
        # No agent yet: clear words and the exit status that is documented.
        self.assertEqual(self.root.inside("underseer", "status", check=False).returncode, 3)

    def test_06_the_service_watches_a_vm(self):
        self.root.boot()
        wait_for(lambda: self.root.booted("systemctl", "is-active", "underseerd").stdout.strip() == "active",
                 "the service")
        status = json.loads(self.root.booted("underseer", "status", "--json").stdout)
        self.assertEqual(status["agent"]["integrity"], "as installed")
        verified = self.root.booted("systemd-analyze", "verify", "--man=no", "underseerd.service").stdout
        self.assertNotIn("underseerd.service:", verified)
        # This Debian has nothing that the demo needs: it says what to install.
        demo = self.root.booted("underseer", "demo", "--once", check=False)
        self.assertNotEqual(demo.returncode, 0)
        self.assertIn("apt install python3", demo.stdout)
        if not self.root.start_vm("package-vm"):
            self.skipTest(f"the guest kernel {KERNEL} is not at hand")

        def watched():
            instances = json.loads(self.root.booted("underseer", "status", "--json").stdout)["instances"]
            return [one for one in instances if one["last_outcome"] == "clean"]

        # Within the unit's confinement: memory is read, the jail closes with every layer.
        one = wait_for(watched, "the VM to be found clean")[0]
        self.assertEqual(one["instance"]["name"], "package-vm")
        self.assertGreater(one["coverage"]["looked_at"], 20)
        journal = self.root.booted("journalctl", "-u", "underseerd", "-o", "cat", "--no-pager").stdout
        for word in ("lost", "missing", "not permitted", "was refused"):
            self.assertNotIn(word, journal)
        self.assertIn("/init", self.root.booted("underseer", "ps", "package-vm").stdout)
        wait_for(lambda: "watching 1 of 1 VM" in
                 self.root.booted("systemctl", "show", "-p", "StatusText", "underseerd").stdout, "its status", 10)

    def test_07_reloads_and_logs_levels_to_the_journal(self):
        policy = self.root.path / "etc/underseer/policy.toml"
        good = policy.read_text()
        policy.write_text(good + "\n[schedul]\n")
        self.root.booted("systemctl", "reload", "underseerd")

        def warnings():
            return self.root.booted("journalctl", "-u", "underseerd", "-p", "warning", "-o", "cat", "--no-pager").stdout

        told = wait_for(lambda: "the old one stays" in warnings() and warnings(), "the wrong policy to be told")
        self.assertRegex(told, r"policy\.toml:\d+:\d+: schedul: there is no such key")
        self.assertEqual(self.root.booted("systemctl", "is-active", "underseerd").stdout.strip(), "active")
        policy.write_text(good)
        self.root.booted("systemctl", "reload", "underseerd")

    def replace(self, program, data):
        """As a package manager does: what runs stays as it is."""
        path = self.root.path / program.lstrip("/")
        new = path.with_suffix(".new")
        new.write_bytes(data)
        shutil.copymode(path, new)
        new.rename(path)

    def change_a_byte(self, program):
        data = bytearray((self.root.path / program.lstrip("/")).read_bytes())
        data[-1] ^= 1  # of the section headers, which nothing reads at run time
        self.replace(program, data)

    def restart(self, check=True):
        self.root.booted("systemctl", "reset-failed", "underseerd", check=False)
        return self.root.booted("systemctl", "restart", "underseerd", check=check)

    def test_08_a_changed_program_is_told_and_by_policy_refused(self):
        for program in ("/usr/bin/underseer", "/usr/sbin/underseerd"):
            original = (self.root.path / program.lstrip("/")).read_bytes()
            self.change_a_byte(program)
            self.restart()
            status = json.loads(self.root.booted("underseer", "status", "--json").stdout)
            self.assertEqual(status["agent"]["integrity"], f"{program}: changed")
            self.assertIn("not those that were installed", self.root.booted("underseer", "log", "show").stdout)
            self.replace(program, original)
        policy = self.root.path / "etc/underseer/policy.toml"
        policy.write_text(policy.read_text().replace('#on_mismatch = "report"', 'on_mismatch = "refuse"'))
        self.root.booted("underseerd", "--seal")
        self.restart()
        self.change_a_byte("/usr/bin/underseer")
        self.assertNotEqual(self.restart(check=False).returncode, 0)
        show = self.root.booted("systemctl", "show", "-p", "ExecMainStatus", "-p", "ActiveState", "underseerd").stdout
        self.assertIn("ExecMainStatus=5", show)
        self.assertIn("ActiveState=failed", show)

    def test_09_the_package_again_signs_again_and_keeps_the_policy(self):
        policy = self.root.path / "etc/underseer/policy.toml"
        changed = policy.read_text()
        self.root.booted("dpkg", "--install", "/root/underseer.deb")
        self.assertEqual(policy.read_text(), changed)
        status = wait_for(lambda: json.loads(self.root.booted("underseer", "status", "--json").stdout), "the agent")
        self.assertEqual(status["agent"]["integrity"], "as installed")
        verified = self.root.booted("underseer", "log", "verify")
        self.assertIn("intact", verified.stdout)

    def test_10_removal_keeps_the_evidence_and_purging_does_not(self):
        self.root.booted("dpkg", "--remove", "underseer")
        active = self.root.booted("systemctl", "is-active", "underseerd", check=False).stdout.strip()
        self.assertNotEqual(active, "active")
        self.assertFalse((self.root.path / "usr/sbin/underseerd").exists())
        self.assertTrue(list(self.state("log/critical").glob("*.jsonl")))
        self.assertTrue((self.root.path / "etc/underseer/policy.toml").exists())
        self.root.booted("dpkg", "--purge", "underseer")
        self.assertFalse(self.state().exists())
        self.assertFalse((self.root.path / "etc/underseer").exists())


def main():
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    if os.geteuid() != 0:
        raise SystemExit("test_package: installing and booting the package needs root")
    PackageTest.folder = sys.argv[1]
    PackageTest.again = sys.argv[2] if len(sys.argv) == 3 else None
    unittest.main(argv=[sys.argv[0]], verbosity=2, failfast=False)


if __name__ == "__main__":
    main()
