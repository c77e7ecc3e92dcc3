#!/bin/busybox sh
# First process of a test guest: mounts what /proc readers need, starts a varied workload, then runs
# commands that the host sends over the second serial port. An answer is one line
# "status bytes", then so many bytes.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /sys/fs/cgroup /mnt/data
mount -t tmpfs -o nosuid,nodev,noexec tmpfs /mnt/data
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
hostname edge-guest
ip link set lo up
for round in 1 2; do  # the second for those that need another one
    for module in /lib/modules/*.ko; do
        case $module in *underseer_*) ;; *) insmod "$module" 2>/dev/null ;; esac
    done
done
ip link add dummy7 type dummy 2>/dev/null && ip addr add 10.7.0.1/24 dev dummy7 && ip link set dummy7 up

for argument in $(cat /proc/cmdline); do
    case $argument in
    underseer.idle) idle=1 ;;
    underseer.tty=*) tty=${argument#*=} ;;
    esac
done
if [ -z "$idle" ]; then
    id=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
    mkdir -p "/sys/fs/cgroup/docker-$id.scope"
    /bin/workload all &
    (echo 0 > "/sys/fs/cgroup/docker-$id.scope/cgroup.procs"; exec unshare -m /bin/workload sleeper) &
    pod=/sys/fs/cgroup/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podc0ffee.slice
    id=89abcdef0123456789abcdef0123456789abcdef0123456789abcdef01234567
    mkdir -p "$pod/cri-containerd-$id.scope"
    (echo 0 > "$pod/cri-containerd-$id.scope/cgroup.procs"; exec unshare -m /bin/workload container) &
    # A container of cgroup v1, beside v2 as in a hybrid system.
    id=fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210
    mkdir /tmp/v1 && mount -t cgroup -o none,name=legacy legacy /tmp/v1 && mkdir -p "/tmp/v1/docker/$id"
    (echo 0 > "/tmp/v1/docker/$id/cgroup.procs"; exec unshare -m /bin/workload sleeper) &
    # Mounts that show a part of a file system, one that is removed there, and a namespace kept.
    mkdir -p /mnt/data/part/inner /mnt/data/gone /tmp/part /tmp/gone
    mount --bind /mnt/data/part/inner /tmp/part
    mount --bind /mnt/data/gone /tmp/gone && rmdir /mnt/data/gone
    touch /tmp/network && mount --bind /proc/self/ns/net /tmp/network
fi

exec 3<>"/dev/${tty:=ttyS1}"
stty -F "/dev/$tty" raw -echo
echo ready >&3
while read -r line <&3; do
    sh -c "$line" > /tmp/.answer 2>&1 < /dev/null
    echo "$? $(wc -c < /tmp/.answer)" >&3
    cat /tmp/.answer >&3
done
