#!/bin/busybox sh
# First process of a test guest with a disk of real programs (tools/guests/make.py): takes what is ours
# to that disk and goes on from it, as the initial RAM disk of a distribution does.
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mkdir -p /disk
for module in /lib/modules/disk/*.ko; do  # in the order in which they need each other
    mount -t ext4 /dev/vda /disk 2>/dev/null && break
    insmod "$module" 2>/dev/null
done
for file in /bin/*; do
    [ -L "$file" ] || cp "$file" /disk/bin/
done
mkdir -p /disk/proc /disk/sys /disk/dev /disk/tmp /disk/run /disk/mnt /disk/root /disk/etc /disk/var/log
cp /init /disk/init
modules=/disk/lib/modules/$(uname -r)/kernel
mkdir -p "$modules"
cp /lib/modules/*.ko /disk/lib/modules/
for module in /lib/modules/disk/*.ko; do
    name=${module##*/}
    cp "$module" "$modules/${name#*-}"
done
echo root:x:0:0:root:/root:/bin/sh > /disk/etc/passwd
echo root:x:0: > /disk/etc/group
chroot /disk /sbin/depmod
umount /dev
exec switch_root /disk /init
