#!/bin/busybox sh
# /init of the initramfs: modules that reach the host's files, then the rest from there.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in $(cat /mods/order); do insmod "/mods/$m" || echo "vm: insmod $m failed"; done
mkdir -p /.h && mount -t virtiofs hostfs /.h || { echo "vm: cannot mount virtiofs"; poweroff -f; }
for w in $(cat /proc/cmdline); do case $w in vmrun=*) RUN=${w#vmrun=};; esac; done
exec /bin/sh "/.h$RUN/init.sh"
