# The first process of a host, in new namespaces: it makes the root file system, enters it, and waits until the test
# has ended. Its arguments: the host's folder, and what its root file system begins with.
set -eu
top=$1
lower=$2

# Our pid where the test is: /proc is still the old one.
read -r pid rest </proc/self/stat
busybox ip link set lo up

# What is written to the root file system is in memory; what engines store is on the disk, where overlays work.
mkdir -p "$top/memory" "$top/root" "$top/disk"
mount -t tmpfs -o mode=755 tmpfs "$top/memory"
mkdir -p "$top/memory/work" "$top/memory/upper/usr/local"
cp -r "$top/bin" "$top/memory/upper/usr/local/bin"
mount -t overlay -o "lowerdir=$lower,upperdir=$top/memory/upper,workdir=$top/memory/work" overlay "$top/root"
cd "$top/root"
for dir in srv tmp var/tmp var/lib/containerd var/lib/docker var/lib/containers var/lib/cni var/lib/orlop; do
	mkdir -p "$dir" "$top/disk/$dir"
	mount --bind "$top/disk/$dir" "$dir"
done
chmod 1777 tmp var/tmp
mount -t tmpfs -o mode=755 tmpfs run
mkdir run/lock
mount -t proc proc proc
mount -t sysfs sysfs sys

mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm dev/net
mount -t devpts -o newinstance,ptmxmode=666,gid=5,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t mqueue mqueue dev/mqueue 2>/dev/null || true
while read -r name major minor; do
	mknod -m 666 "dev/$name" c "$major" "$minor"
done <<-NODES
	null 1 3
	zero 1 5
	full 1 7
	random 1 8
	urandom 1 9
	tty 5 0
	fuse 10 229
	net/tun 10 200
NODES
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr

# The machine's hierarchies as our cgroup namespace shows them: each begins at the host's own cgroup. Processes go one
# level below, since a cgroup of version 2 whose children have controllers can't have any.
if [ "${HIERARCHIES%% *}" != . ]; then
	mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
fi
echo "$HIERARCHIES" | while read -r dir type options; do
	mkdir -p "sys/fs/cgroup/$dir"
	mount -t "$type" -o "$options" cgroup "sys/fs/cgroup/$dir"
	mkdir "sys/fs/cgroup/$dir/host"
	if [ -e "sys/fs/cgroup/$dir/cpuset.cpus" ] && [ "$type" = cgroup ]; then
		for of in cpus mems; do
			cat "sys/fs/cgroup/$dir/cpuset.$of" >"sys/fs/cgroup/$dir/host/cpuset.$of"
		done
	fi
	echo 1 >"sys/fs/cgroup/$dir/host/cgroup.procs"
done

mkdir -p .old
pivot_root . .old
umount -l .old
rmdir .old
echo "$pid"
exec >&2
# A shell that takes leave of every orphan, and for which the end of the test is the end of its input.
exec bash -c 'read -r _' host
