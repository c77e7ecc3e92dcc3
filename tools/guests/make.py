#!/usr/bin/python3
"""Fetches guest kernels of several Debian suites and builds a small initial RAM disk for each.

Usage: tools/guests/make.py [--list] [KERNEL...]   (when none is named: all but those built from source)

Every suite has an apt configuration of its own below the cache, so that the host's stays as it is.
The cache is ${UNDERSEER_CACHE:-${XDG_CACHE_HOME:-~/.cache}/underseer}; what is there is not made
again. A kernel that its suite no longer has is reported and left out: that is no failure.
"""
import argparse
import fcntl
import gzip
import hashlib
import json
import lzma
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
# What goes into a guest: beside this script when installed (tools/CMakeLists.txt).
GUEST = HERE / "inside" if (HERE / "inside").is_dir() else HERE.parents[1] / "tests/testing/guest"
KERNELS = {
    "5.10-cloud": ("bullseye", "linux-image-cloud-amd64"),
    "6.1-cloud": ("bookworm", "linux-image-cloud-amd64"),
    "6.1-generic": ("bookworm", "linux-image-amd64"),
    "6.12-cloud": ("trixie", "linux-image-cloud-amd64"),
    "6.12-rt": ("trixie", "linux-image-rt-amd64"),
    "7.2-cloud": ("sid", "linux-image-cloud-amd64"),
}
# Kernels built here from their suite's source package, and only when they are named: it takes an hour.
OWN_KERNELS = {"6.1-bare": ("bookworm", "linux-source-6.1")}
OWN_TOOLS = ["gcc", "libc6-dev", "flex", "bison", "m4", "bc", "libelf-dev", "libssl-dev", "tar", "xz-utils",
             "diffutils", "gzip", "hostname"]
# What a test guest needs on top of tinyconfig. No BTF, and kallsyms of functions only.
OWN_CONFIG = """
64BIT SMP PRINTK TTY SERIAL_8250 SERIAL_8250_CONSOLE BLK_DEV_INITRD RD_GZIP BINFMT_ELF BINFMT_SCRIPT
PROC_FS PROC_SYSCTL SYSFS DEVTMPFS TMPFS SHMEM MULTIUSER FUTEX EPOLL SIGNALFD TIMERFD EVENTFD POSIX_TIMERS
HIGH_RES_TIMERS FILE_LOCKING ADVISE_SYSCALLS MEMBARRIER AIO BUG INOTIFY_USER NET UNIX INET PACKET
CGROUPS NAMESPACES UTS_NS PID_NS NET_NS IPC_NS USER_NS SYSVIPC PCI ACPI MODULES MODULE_UNLOAD KALLSYMS
RELOCATABLE RANDOMIZE_BASE KEXEC VM_EVENT_COUNTERS POSIX_MQUEUE KCMP STACKPROTECTOR DEBUG_FS
!KALLSYMS_ALL !DEBUG_INFO_BTF !DEBUG_INFO !MODULE_SIG
"""
# What a kernel's module build runs besides the compiler that its headers name.
CHROOT_TOOLS = ["make", "dash", "bash", "coreutils", "findutils", "grep", "sed", "mawk", "perl-base"]
# Loaded where they are not built in: some that /proc/modules can be compared with, a network card, and what tc
# needs for BPF.
EXTRA_MODULES = ["dummy", "sch_ingress", "cls_bpf", "nfnetlink", "zram", "zsmalloc", "failover", "net_failover", "virtio", "virtio_net",
                 "virtio_pci", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_ring"]
# User space of a guest with real programs in it: a disk of this suite, which guests of all kernels share, and
# modules of each kernel (with those that they need): of that disk, and some to load and to take out again.
DISK_SUITE = "bookworm"
DISK_PACKAGES = ["dash", "bash", "coreutils", "findutils", "grep", "sed", "mawk", "util-linux", "mount", "procps", "kmod",
                 "iproute2", "busybox-static", "gcc", "libc6-dev", "make", "runc", "bpftrace", "linux-perf", "trace-cmd",
                 "gdb", "strace", "auditd"]
DISK_MODULES = ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "overlay", "bridge", "veth", "loop", "tun", "xfs",
                "btrfs", "nf_tables", "nft_chain_nat"]
DISK_MIB = 2048


def cache_dir():
    base = os.environ.get("UNDERSEER_CACHE")
    if not base:
        base = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "underseer"
    path = pathlib.Path(base)
    path.mkdir(parents=True, exist_ok=True)
    return path


def say(text):
    print(f"guests: {text}", file=sys.stderr, flush=True)


def mirror():
    """The mirror that the host's own apt uses."""
    for source in sorted(pathlib.Path("/etc/apt").glob("sources.list*/**/*.sources")) + [
            pathlib.Path("/etc/apt/sources.list")] + sorted(pathlib.Path("/etc/apt/sources.list.d").glob("*")):
        if not source.is_file():
            continue
        for uri in re.findall(r"https?://\S+", source.read_text(errors="replace")):
            if re.search(r"/debian/?$", uri):
                return uri.rstrip("/")
    raise SystemExit("guests: no Debian mirror found in /etc/apt; add one and try again")


class Suite:
    def __init__(self, name):
        self.name = name
        self.dir = cache_dir() / "apt" / name
        for sub in ("lists/partial", "cache/archives/partial", "downloads"):
            (self.dir / sub).mkdir(parents=True, exist_ok=True)
        (self.dir / "status").touch()
        base = mirror()
        keys = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg"
        lines = [f"deb [{keys}] {base} {name} main"]
        if name != "sid":
            lines.append(f"deb [{keys}] {base}-security {name}-security main")
        (self.dir / "sources.list").write_text("\n".join(lines) + "\n")
        self.updated = False

    def apt(self, tool, *arguments, check=True):
        options = {
            "Dir::Etc::sourcelist": self.dir / "sources.list", "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": self.dir / "lists", "Dir::Cache": self.dir / "cache",
            "Dir::State::status": self.dir / "status", "APT::Architecture": "amd64",
            "Acquire::Languages": "none", "APT::Sandbox::User": "root",
        }
        command = [tool] + [f"-o{key}={value}" for key, value in options.items()] + list(arguments)
        return subprocess.run(command, check=check, text=True, cwd=self.dir / "downloads",
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout

    def update(self):
        if not self.updated:
            self.apt("apt-get", "update", "-q")
            self.updated = True

    def depends(self, package, pattern):
        text = self.apt("apt-cache", "depends", package)
        return [name for name in re.findall(r"Depends: (\S+)", text) if re.match(pattern, name)]

    def unpack(self, packages, into):
        self.apt("apt-get", "download", "-q", *packages)
        for package in packages:
            deb = max((self.dir / "downloads").glob(f"{package}_*.deb"), key=lambda p: p.stat().st_mtime)
            subprocess.run(["dpkg-deb", "-x", deb, into], check=True)
            deb.unlink()


def fetch_kernel(name):
    """Unpacks the kernel package(s); returns its folder, or None when the suite has none."""
    folder = cache_dir() / "kernels" / name
    if (folder / "release").exists():
        return folder
    suite_name, meta = KERNELS[name]
    say(f"{name}: fetching from {suite_name}")
    suite = Suite(suite_name)
    try:
        suite.update()
        image = suite.depends(meta, r"linux-image-\d")[0]
        packages = [image] + suite.depends(image, r"linux-(binary|modules)-\d")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        suite.unpack(packages, folder / "root")
    except (subprocess.CalledProcessError, IndexError, ValueError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        say(f"{name}: not to be had from {suite_name}: {detail.strip().splitlines()[-1:]}")
        return None
    release = image.removeprefix("linux-image-")
    candidates = list((folder / "root").rglob("vmlinuz*"))
    if not candidates:
        say(f"{name}: {image} holds no vmlinuz")
        return None
    shutil.copy(candidates[0], folder / "vmlinuz")
    (folder / "release").write_text(release + "\n")
    return folder


def build_own_kernel(name):
    """Builds a kernel of OWN_KERNELS in a chroot of its suite; None (and said why) when it cannot be."""
    folder = cache_dir() / "kernels" / name
    if (folder / "release").exists():
        return folder
    suite_name, package = OWN_KERNELS[name]
    say(f"{name}: building it from {package} of {suite_name}; this takes long")
    suite = Suite(suite_name)
    try:
        suite.update()
        root = chroot_of(suite, OWN_TOOLS, [])
        if not root:
            return None
        with tempfile.TemporaryDirectory(dir=root / "tmp") as work:
            work = pathlib.Path(work)
            suite.unpack([package], work)
            source = work / "source"
            source.mkdir()
            tar = next(work.glob(f"usr/src/{package}.tar.*"))
            subprocess.run(["tar", "-xf", tar, "-C", source, "--strip-components=1"], check=True)
            wanted = OWN_CONFIG.split()
            (source / "own.config").write_text("".join(
                f"# CONFIG_{option[1:]} is not set\n" if option.startswith("!") else f"CONFIG_{option}=y\n"
                for option in wanted))
            inside = "/" + str(source.relative_to(root))

            def make(*targets):
                return subprocess.run(
                    ["unshare", f"--mount-proc={root}/proc", "chroot", root, "nice", "make", "-s", "-C", inside,
                     "KBUILD_BUILD_USER=underseer", "KBUILD_BUILD_HOST=example", *targets],
                    check=True, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE).stdout

            make("tinyconfig")
            config = source / ".config"
            config.write_text(config.read_text() + (source / "own.config").read_text())
            make("olddefconfig")
            config_text = config.read_text()
            for option in wanted:
                if (f"\nCONFIG_{option.lstrip('!')}=y\n" in config_text) == option.startswith("!"):
                    say(f"{name}: this source does not take {option}")
            make(f"-j{os.cpu_count()}", "bzImage")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "root").mkdir(exist_ok=True)  # no modules
            shutil.copy(source / "arch/x86/boot/bzImage", folder / "vmlinuz")
            shutil.copy(config, folder / "config")
            (folder / "release").write_text(make("kernelrelease").strip() + "\n")
    except (subprocess.CalledProcessError, StopIteration) as error:
        detail = getattr(error, "stderr", "") or getattr(error, "stdout", "") or str(error)
        say(f"{name}: could not be built: {detail.strip()[-2000:]}")
        return None
    return folder


def kernel_module(folder, name):
    """The uncompressed bytes of a module, or None when it is built in or absent."""
    for path in sorted((folder / "root").rglob(f"{name}.ko*")):
        data = path.read_bytes()
        return lzma.decompress(data) if path.suffix == ".xz" else data
    return None


def build_program(name):
    """A static program of tests/testing/guest, built once per content."""
    source = GUEST / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    program = cache_dir() / "programs" / f"{name}-{digest}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-static", "-pthread", "-o", program, source],
                       check=True)
    return program


def build_dynamic(name):
    """The same program with shared libraries and without .symtab: {place in the guest: file}."""
    source = GUEST / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    program = cache_dir() / "programs" / f"{name}-dynamic-{digest}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-pie", "-fPIE", "-rdynamic", "-s", "-pthread", "-o", program,
                        source], check=True)

    def library(file):
        found = subprocess.run(["gcc", f"-print-file-name={file}"], check=True, text=True, stdout=subprocess.PIPE)
        return pathlib.Path(found.stdout.strip()).resolve()

    return {f"bin/{name}-dynamic": program, "lib64/ld-linux-x86-64.so.2": library("ld-linux-x86-64.so.2"),
            "lib/x86_64-linux-gnu/libc.so.6": library("libc.so.6")}


def host_suite():
    text = pathlib.Path("/etc/os-release").read_text()
    found = re.search(r"^VERSION_CODENAME=(\S+)", text, re.M)
    return found.group(1) if found else ""


def merge_packages(suite, packages, root):
    """Unpacks packages over a root whose /lib may be a symbolic link."""
    with tempfile.TemporaryDirectory(dir=cache_dir()) as work:
        suite.unpack(packages, work)
        tree = pathlib.Path(work)
        (root / "usr/src").mkdir(parents=True, exist_ok=True)
        for source in (tree / "usr/src").iterdir():
            target = root / "usr/src" / source.name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, symlinks=True)


def host_apt_options():
    """How the host's apt reaches its mirror and judges it: mmdebstrap does not take that over."""
    dump = subprocess.run(["apt-config", "dump", "Acquire"], check=True, text=True, stdout=subprocess.PIPE).stdout
    wanted = r"Acquire::(Check-Valid-Until|https?::(Proxy|CaInfo|CaPath)) \"[^\"]+\";"
    return [f"--aptopt={line}" for line in dump.splitlines() if re.fullmatch(wanted, line)]


def chroot_of(suite, compiler, kbuild):
    """A root of that suite with just enough in it to build a module; None when this cannot be made.

    Headers come with programs of their suite (objtool, modpost) and want their suite's compiler, so
    that those of a newer suite do not run here. Packages are unpacked, not configured: no script of
    theirs runs.
    """
    if os.geteuid() != 0 or not shutil.which("mmdebstrap"):
        say(f"{suite.name}: no modules of ours: they are built in a chroot, which takes root and mmdebstrap")
        return None
    packages = [*compiler, *kbuild, *CHROOT_TOOLS]
    digest = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:16]
    root = cache_dir() / "chroots" / f"{suite.name}-{digest}"
    if root.exists():
        return root
    root.parent.mkdir(exist_ok=True)
    for old in root.parent.glob(f"{suite.name}-*"):  # of another compiler, or left unfinished
        shutil.rmtree(old)
    say(f"{suite.name}: making a chroot with {' '.join(compiler)}")
    unfinished = root.with_suffix(".part")
    unpack_root(suite, packages, unfinished)
    unfinished.rename(root)
    return root


def unpack_root(suite, packages, root):
    """Packages and all that they depend on, unpacked into a root of their own."""
    subprocess.run(["mmdebstrap", "--quiet", "--mode=root", "--variant=extract", *host_apt_options(),
                    "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
                    f"--include={','.join(packages)}", suite.name, root, suite.dir / "sources.list"],
                   check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if not (root / "usr/bin/awk").exists():  # that link is made when mawk is configured
        (root / "usr/bin/awk").symlink_to("mawk")
    for sub in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"):
        shutil.rmtree(root / sub, ignore_errors=True)


def host_headers(suite, packages, folder):
    """Headers of the host's own suite, unpacked where the host's compiler can use them."""
    headers = folder / "headers"
    shutil.rmtree(headers, ignore_errors=True)
    suite.unpack(packages, headers)
    # The headers refer to each other by absolute paths.
    for link in list(headers.rglob("*")):
        if link.is_symlink() and os.readlink(link).startswith("/"):
            target = headers / os.readlink(link)[1:]
            link.unlink()
            link.symlink_to(target)
    for makefile in headers.glob("usr/src/linux-headers-*/Makefile"):
        text = makefile.read_text()
        makefile.write_text(text.replace(" /usr/src/", f" {headers}/usr/src/"))
    return headers


def make_modules(command, headers, work, sources, folder):
    """Builds `sources` in the folder `work`, the modules into `folder`, or raises CalledProcessError."""
    for source in sources:
        shutil.copy(source, work)
    (work / "Kbuild").write_text(f"obj-m := {' '.join(f'{source.stem}.o' for source in sources)}\n")
    inside, where = command
    subprocess.run([*inside, "make", "-s", "-C", headers, f"M={where}", "modules"], check=True, text=True,
                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    unfinished = folder.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for source in sources:
        shutil.copy(work / f"{source.stem}.ko", unfinished)
    unfinished.rename(folder)


def build_fixtures(name, folder):
    """Our modules for this kernel, in a folder; None (and said why) where they cannot be built."""
    sources = sorted((GUEST / "modules").glob("*.c"))
    digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    modules = folder / f"fixtures-{digest}"
    if modules.exists():
        return modules
    suite_name, _ = KERNELS[name]
    release = (folder / "release").read_text().strip()
    say(f"{name}: building our modules")
    suite = Suite(suite_name)
    try:
        suite.update()
        headers = f"linux-headers-{release}"
        common = suite.depends(headers, r"linux-headers-.*-common")
        kbuild = suite.depends(headers, r"linux-kbuild-")
        where = f"usr/src/{headers}"
        if suite_name == host_suite():
            tree = host_headers(suite, [headers, *common, *kbuild], folder)
            with tempfile.TemporaryDirectory() as work:
                make_modules(([], work), tree / where, pathlib.Path(work), sources, modules)
            return modules
        root = chroot_of(suite, suite.depends(headers, r"(linux-compiler-)?gcc-\d"), kbuild)
        if not root:
            return None
        merge_packages(suite, [headers, *common], root)
        with tempfile.TemporaryDirectory(dir=root / "tmp") as work:
            inside = "/" + str(pathlib.Path(work).relative_to(root))
            # objtool wants to know its stack's limit; the mount goes away with its namespace.
            chroot = ["unshare", f"--mount-proc={root}/proc", "chroot", root]
            make_modules((chroot, inside), f"/{where}", pathlib.Path(work), sources, modules)
        for used in [headers, *common]:
            shutil.rmtree(root / "usr/src" / used)
    except subprocess.CalledProcessError as error:
        detail = (error.stderr or error.stdout or str(error)).strip()
        say(f"{name}: our modules could not be built: {detail[-2000:]}")
        return None
    return modules


def pack(tree, archive):
    """Packs a folder as an initial RAM disk."""
    files = subprocess.run(["find", "."], cwd=tree, check=True, stdout=subprocess.PIPE).stdout
    packed = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, input=files, check=True,
                            stdout=subprocess.PIPE).stdout
    archive.write_bytes(gzip.compress(packed, 1))


def point_to(link, target):
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)


def build_initrd(name, folder):
    init = GUEST / "init.sh"
    # The package has no intruder: its demo hides a process and does nothing else.
    programs = {source.stem: build_program(source.stem) for source in sorted(GUEST.glob("*.c"))}
    fixtures = build_fixtures(name, folder) if name in KERNELS else None
    modules = sorted(fixtures.glob("*.ko")) if fixtures else []
    dynamic = build_dynamic("workload")
    parts = [path.read_bytes() for path in [init, *programs.values(), *dynamic.values(), *modules]]
    digest = hashlib.sha256(b"\0".join(parts) + repr(EXTRA_MODULES).encode()).hexdigest()[:16]
    initrd = folder / f"initrd-{digest}.gz"
    if not initrd.exists():
        with tempfile.TemporaryDirectory() as work:
            tree = pathlib.Path(work)
            for sub in ("bin", "proc", "sys", "dev", "tmp", "lib/modules", "etc"):
                (tree / sub).mkdir(parents=True)
            shutil.copy(shutil.which("busybox"), tree / "bin/busybox")
            for program, built in programs.items():
                shutil.copy(built, tree / "bin" / program)
            for place, file in dynamic.items():
                (tree / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, tree / place)
            shutil.copy(init, tree / "init")
            (tree / "init").chmod(0o755)
            for module in EXTRA_MODULES:
                data = kernel_module(folder, module)
                if data:
                    (tree / f"lib/modules/{module}.ko").write_bytes(data)
            for module in modules:
                shutil.copy(module, tree / "lib/modules")
            pack(tree, initrd)
    point_to(folder / "initrd.gz", initrd)
    return bool(modules)


def with_dependencies(folder, names):
    """{name: bytes} of those modules of a kernel and of all that they need, in the order to load them."""
    found = {}

    def take(name):
        # A module's file may have dashes where its name has underscores.
        data = kernel_module(folder, name) or kernel_module(folder, name.replace("_", "-"))
        if name in found or not data:
            return
        depends = re.search(rb"\0depends=([^\0]*)\0", data)
        for needed in depends.group(1).decode().split(",") if depends else []:
            take(needed)
        found[name] = data

    for name in names:
        take(name)
    return found


def build_disk_initrd(name, folder):
    """What an initial RAM disk needs besides to go on from the disk; unpacked over initrd.gz."""
    scripts = [GUEST / "disk_init.sh", GUEST / "load.sh"]
    if not all(script.exists() for script in scripts):  # the package has none
        return
    digest = hashlib.sha256(b"\0".join(script.read_bytes() for script in scripts) +
                            repr(DISK_MODULES).encode()).hexdigest()[:16]
    initrd = folder / f"disk-{digest}.gz"
    if not initrd.exists():
        with tempfile.TemporaryDirectory() as work:
            tree = pathlib.Path(work)
            for sub in ("disk", "bin", "lib/modules/disk"):
                (tree / sub).mkdir(parents=True)
            for place, script in zip((tree / "disk_init", tree / "bin/load"), scripts):
                shutil.copy(script, place)
                place.chmod(0o755)
            for number, (module, data) in enumerate(with_dependencies(folder, DISK_MODULES).items()):
                (tree / f"lib/modules/disk/{number:02}-{module}.ko").write_bytes(data)
            pack(tree, initrd)
    point_to(folder / "disk.gz", initrd)


def build_disk():
    """The disk of guests with real programs; False (and said why) when it cannot be made."""
    digest = hashlib.sha256(f"{DISK_SUITE} {DISK_PACKAGES} {DISK_MIB}".encode()).hexdigest()[:16]
    folder = cache_dir() / "disks"
    image = folder / f"disk-{digest}.ext4"
    if not image.exists():
        if os.geteuid() != 0 or not shutil.which("mmdebstrap") or not shutil.which("mke2fs"):
            say("disk: not made: that takes root, mmdebstrap and mke2fs")
            return False
        say(f"disk: unpacking {' '.join(DISK_PACKAGES)} of {DISK_SUITE}")
        folder.mkdir(exist_ok=True)
        for old in folder.glob("disk-*"):  # of other packages, or left unfinished
            old.unlink()
        suite = Suite(DISK_SUITE)
        try:
            suite.update()
            with tempfile.TemporaryDirectory(dir=folder) as work:
                root = pathlib.Path(work) / "root"
                unpack_root(suite, DISK_PACKAGES, root)
                unfinished = image.with_suffix(".part")
                subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, unfinished, f"{DISK_MIB}M"], check=True,
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                unfinished.rename(image)
        except subprocess.CalledProcessError as error:
            say(f"disk: could not be made: {(error.stderr or str(error)).strip()[-2000:]}")
            return False
    point_to(folder / "disk.ext4", image)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print what is there as JSON, make nothing")
    parser.add_argument("kernels", nargs="*", metavar="KERNEL",
                        help=", ".join([*KERNELS, *OWN_KERNELS, "disk"]))
    options = parser.parse_args()
    for name in options.kernels:
        if name not in [*KERNELS, *OWN_KERNELS, "disk"]:
            raise SystemExit(f"guests: there is no kernel '{name}'; there are "
                             f"{', '.join([*KERNELS, *OWN_KERNELS])}")
    # One at a time: several worktrees share the cache.
    lock = open(cache_dir() / "lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    made = {}
    if not options.list and (not options.kernels or "disk" in options.kernels) and build_disk():
        say("disk: ready")
    for name in [name for name in options.kernels or KERNELS if name != "disk"]:
        folder = cache_dir() / "kernels" / name
        if not options.list:
            folder = fetch_kernel(name) if name in KERNELS else build_own_kernel(name)
            if folder:
                fixtures = build_initrd(name, folder)
                build_disk_initrd(name, folder)
                say(f"{name}: ready ({(folder / 'release').read_text().strip()}"
                    f"{', with our modules' if fixtures else ''})")
        if folder and (folder / "initrd.gz").exists():
            made[name] = {"release": (folder / "release").read_text().strip(), "folder": str(folder)}
    print(json.dumps(made, indent=2))


if __name__ == "__main__":
    main()
