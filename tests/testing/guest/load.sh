#!/bin/sh
# What servers do all day, and who looks after them: work for a guest with a disk of real programs.
#
#     load NAME..    each in turn, for ever; /tmp/load/NAME counts the rounds that went well, and
#                    /tmp/load/failed says what did not
#     load audit     the kernel's audit, until `load no_audit`
#
# In the environment: `hold`, for how many seconds a probe or tracer is in place, and `files`, how many are compiled.
set -e
mkdir -p /tmp/load
tracing=/sys/kernel/tracing

# A few hundred small files, by several compilers at a time, into a program that runs.
compile() {
    rm -rf /tmp/build && mkdir /tmp/build && cd /tmp/build
    objects=
    for i in $(seq "$files"); do
        echo "#include <stdio.h>
int f$i(int n) { char text[40]; return n > 0 ? f$i(n - 1) + sprintf(text, \"%d\", n) : $i; }" > "f$i.c"
        objects="$objects f$i.o"
    done
    echo 'int f1(int); int main(void) { return f1(3) != 4; }' > main.c
    printf 'program: main.o%s\n\tgcc -o $@ $^\n' "$objects" > Makefile
    make -s -j4 program CC=gcc CFLAGS=-O1 && ./program
}

# Containers as Docker and Kubernetes have them started: a file system in layers, a network of its own that a bridge
# joins with the others, a cgroup; they live for a second or two.
containers() {
    modprobe -a overlay veth bridge
    [ -e /sys/class/net/docker0 ] || { ip link add docker0 type bridge && ip link set docker0 up; }
    if [ ! -e /var/lib/image/bin/sh ]; then
        mkdir -p /var/lib/image/bin
        cp /bin/busybox /var/lib/image/bin/
        chroot /var/lib/image /bin/busybox --install -s /bin
        mkdir -p /var/lib/image/proc /var/lib/image/sys /var/lib/image/dev
    fi
    for i in 1 2 3 4 5 6 7 8; do
        container "$i" & started="$started $!"
        [ $((i % 4)) != 0 ] || { for pid in $started; do wait "$pid"; done; started=; }
    done
}
container() {
    id=$(printf '%064x' "$(($1 + $(date +%s) * 16))")
    bundle=/run/bundles/$id layers=/var/lib/layers/$id
    mkdir -p "$bundle/rootfs" "$layers/upper" "$layers/work"
    mount -t overlay -o "lowerdir=/var/lib/image,upperdir=$layers/upper,workdir=$layers/work" overlay "$bundle/rootfs"
    cd "$bundle"
    runc spec
    sed -i -e 's/"terminal": true/"terminal": false/' -e 's/"readonly": true/"readonly": false/' \
        -e "s|\"sh\"|\"sh\", \"-c\", \"ps; ls -l /; echo $1 > /tmp.txt; sleep 3\"|" \
        -e "s|\"linux\": {|\"linux\": { \"cgroupsPath\": \"/docker-$id.scope\",|" config.json
    runc create "$id" > /dev/null
    pid=$(runc state "$id" | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')
    ip link add "veth$1" type veth peer name eth0 netns "$pid"
    ip link set "veth$1" master docker0 up
    runc start "$id"
    runc exec "$id" ls / > /dev/null || true  # that has ended meanwhile
    until runc state "$id" | grep -q '"status": "stopped"'; do sleep 0.5; done
    runc delete "$id"
    umount "$bundle/rootfs"
    rm -rf "$bundle" "$layers"
}

# Probes of every kind that bpftrace has, each for some seconds with something to count.
probes() {
    for probe in 'kprobe:do_sys_openat2' 'kretprobe:vfs_open' 'kfunc:vfs_open' 'tracepoint:sched:sched_process_exec' \
        'tracepoint:raw_syscalls:sys_enter' 'uprobe:/bin/bash:readline' 'profile:hz:49'; do
        case $probe in kfunc:*) bpftrace --info 2> /dev/null | grep -q 'kfunc: yes' || continue ;; esac
        timeout 120 bpftrace -e "$probe { @[comm] = count(); } interval:s:$hold { exit(); }" > /dev/null
    done
}

# perf, trace-cmd, and the kernel's own tracers: of functions, by ftrace, and of probes that are made for the moment.
tracers() {
    perf stat -a -e context-switches,page-faults sleep 1 2> /dev/null
    perf record -q -a -g -o /tmp/perf.data sleep 1 > /dev/null 2>&1
    perf probe -q --add do_sys_openat2 && perf record -q -e probe:do_sys_openat2 -a -o /tmp/perf.data sleep 1 > /dev/null 2>&1
    perf probe -q --del do_sys_openat2
    trace-cmd record -q -o /tmp/trace.dat -e sched_switch -e 'syscalls:*' sleep 1 > /dev/null 2>&1
    trace-cmd record -q -o /tmp/trace.dat -p function -l 'vfs_*' -l 'tcp_*' sleep $hold > /dev/null 2>&1
    trace-cmd record -q -o /tmp/trace.dat -p function_graph -l 'vfs_*' sleep $hold > /dev/null 2>&1
    echo 'p:opened do_sys_openat2 file=+0($arg2):ustring' > $tracing/kprobe_events
    echo 1 > $tracing/events/kprobes/opened/enable
    sleep $hold
    echo 0 > $tracing/events/kprobes/opened/enable
    echo > $tracing/kprobe_events
    # Every function of the kernel that can be traced.
    echo function > $tracing/current_tracer
    sleep $hold
    echo nop > $tracing/current_tracer
}

modules() {
    for module in xfs btrfs tun loop nf_tables nft_chain_nat; do
        modprobe "$module"
        sleep 1
    done
    for module in nft_chain_nat nf_tables loop tun btrfs xfs; do
        modprobe -r "$module"
    done
}

# A program of one's own under a debugger, and another under strace.
debugger() {
    mkdir -p /root/work && cd /root/work
    if [ ! -e target ]; then
        echo '#include <stdio.h>
#include <unistd.h>
int step(int n) { return n + 1; }
int main(void) { int n = 0; while (n < 20) { n = step(n); usleep(200000); } return n != 20; }' > target.c
        gcc -g -o target target.c
    fi
    gdb -q -batch -ex 'break step' -ex run -ex bt -ex 'ignore 1 10' -ex continue -ex 'print n' -ex 'delete' -ex continue \
        ./target > /dev/null
    strace -f -q -o /dev/null sh -c 'ls /usr/bin > /dev/null; ./target'
}

# As guides to hardening set it up.
audit() {
    mkdir -p /var/log/audit
    cat > /etc/audit/audit.rules <<-END
	-D
	-b 8192
	-a always,exit -F arch=b64 -S execve,execveat -k exec
	-a always,exit -F arch=b64 -S init_module,finit_module,delete_module -k modules
	-a always,exit -F arch=b64 -S mount,umount2 -k mounts
	-a always,exit -F arch=b64 -S ptrace -k tracing
	-a always,exit -F arch=b64 -S openat,creat -F exit=-EACCES -k denied
	-a always,exit -F arch=b64 -S unlink,unlinkat,rename,renameat,renameat2 -k removed
	-a always,exit -F arch=b64 -S connect,bind -k network
	-w /etc -p wa -k settings
	-w /usr/bin -p wa -k programs
	END
    sed -i 's/^log_group.*/log_group = root/' /etc/audit/auditd.conf
    auditctl -e 1 > /dev/null
    auditd
    auditctl -R /etc/audit/audit.rules > /dev/null
}

no_audit() {
    pkill -x auditd || true
    auditctl -D > /dev/null
    auditctl -e 0 > /dev/null
    auditctl -a task,never > /dev/null  # new processes then have nothing of it, as before it was first used
}

case $1 in audit | no_audit) "$1"; exit ;; esac
hold=${hold:-2} files=${files:-100}
mountpoint -q $tracing || mount -t tracefs tracefs $tracing
: > /tmp/load/failed
while :; do
    for name; do
        "$name" > /tmp/load/log 2>&1 &  # as a condition itself, it would go on after what fails
        if wait $!; then
            echo $(($(cat "/tmp/load/$name" 2> /dev/null || echo 0) + 1)) > "/tmp/load/$name"
        else
            { echo "$name:"; tail -5 /tmp/load/log; } >> /tmp/load/failed
        fi
    done
done
