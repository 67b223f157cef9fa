# Second stage, read from the host by early.sh. RUN, SHARE, KERNEL, ROOT and SYSTEMD are set above this text.
T=/newroot
case $ROOT in
busybox) # the initramfs copied to a tmpfs: a real mount, so that pivot_root works
  mount -t tmpfs -o size=75%,mode=755 root $T
  for d in bin sbin etc root usr var tmp run lib; do cp -a /$d $T/; done;;
guest) # an ext4 image, which qemu throws the changes of away
  mount -t ext4 -o noatime /dev/vda $T || { echo "vm: cannot mount /dev/vda"; poweroff -f; };;
host) # the host's files, changes in memory
  mkdir -p /.rw; mount -t tmpfs -o size=75%,mode=755 rw /.rw; mkdir /.rw/u /.rw/w
  mount -t overlay -o lowerdir=/.h,upperdir=/.rw/u,workdir=/.rw/w root $T || { echo "vm: overlay failed"; poweroff -f; };;
esac
mkdir -p $T/proc $T/sys $T/dev $T/host $T/share $T/.vm $T/.h $T/tmp $T/run $T/boot $T/lib/modules
mount -t proc proc $T/proc; mount -t sysfs sys $T/sys; mount -t devtmpfs dev $T/dev
mount -t tmpfs -o mode=1777 tmp $T/tmp; mount -t tmpfs -o mode=755 run $T/run; mount -t tmpfs boot $T/boot; mount -t tmpfs vm $T/.vm
mkdir -p $T/dev/pts $T/dev/shm; mount -t devpts -o ptmxmode=666 devpts $T/dev/pts; mount -t tmpfs -o mode=1777 shm $T/dev/shm
ln -sf /proc/self/fd $T/dev/fd; ln -sf /proc/self/fd/0 $T/dev/stdin; ln -sf /proc/self/fd/1 $T/dev/stdout; ln -sf /proc/self/fd/2 $T/dev/stderr
mkdir -p "$T$SHARE"; mount -o bind "/.h$SHARE" $T/share; mount -o bind "/.h$SHARE" "$T$SHARE"
mount -o bind /.h $T/host; mount -o remount,bind,ro $T/host
mount -o bind "/.h$KERNEL/lib/modules" $T/lib/modules
cp /etc/kconfig "$T/boot/config-$(uname -r)"; cp /bin/busybox $T/.vm/
mount -t cgroup2 none $T/sys/fs/cgroup
for c in $(cat $T/sys/fs/cgroup/cgroup.controllers); do echo "+$c" >$T/sys/fs/cgroup/cgroup.subtree_control; done
mount -t bpf bpf $T/sys/fs/bpf; mount -t tracefs tracefs $T/sys/kernel/tracing
mount -t debugfs debugfs $T/sys/kernel/debug; mount -t securityfs sec $T/sys/kernel/security 2>/dev/null
ip link set lo up; hostname vm; echo vm >$T/etc/hostname; rm -f $T/etc/mtab; ln -s /proc/self/mounts $T/etc/mtab
[ -e $T/sbin/modprobe ] || ln -s /.vm/busybox $T/sbin/modprobe # the kernel loads modules by it
SH=/bin/sh; [ -x $T/bin/bash ] && SH=/bin/bash
cp "/.h$RUN/command" $T/.vm/command
cat >$T/.vm/stage2 <<STAGE2
B=/.vm/busybox; OUT=/dev/hvc0
\$B stty -F \$OUT raw -echo
\$B cat /proc/uptime >/.h$RUN/started
\$B setsid $SH /.vm/command </dev/null >\$OUT 2>&1
echo \$? >/.h$RUN/rc; \$B sync; \$B sleep 0.1; \$B reboot -f
STAGE2
umount /sys /dev /proc; mount -o move /.h $T/.h
[ -n "$SYSTEMD" ] || exec switch_root $T /.vm/busybox sh /.vm/stage2
mkdir -p $T/etc/systemd/system; cat >$T/etc/systemd/system/vmrun.service <<'UNIT'
[Unit]
Requires=basic.target dbus.socket
After=basic.target dbus.socket
[Service]
Type=simple
Environment=HOME=/root
ExecStart=/.vm/busybox sh /.vm/stage2
TimeoutSec=infinity
Delegate=yes
UNIT
exec switch_root $T /lib/systemd/systemd --unit=vmrun.service
