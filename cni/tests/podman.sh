#!/bin/sh
# What podman does with a network list that names weft-cni. The test runs this in mount and process namespaces of its
# own, which end with it: whatever podman mounts, starts or forgets is gone then.
#
# usage: podman.sh FOLDER PLUGINS SOCKET ADDRESS PORT
#   FOLDER   empty, for everything that is written
#   PLUGINS  the folder with weft-cni
#   SOCKET   of the router
#   ADDRESS  and PORT at which a container on another host listens
set -eu
folder=$1 plugins=$2 socket=$3 address=$4 port=$5

# Where podman and libcni write beside the folders that they are given.
for place in /run /var/lib /dev/shm; do
    mount -t tmpfs tmpfs "$place"
done
mkdir /run/netns

mkdir -p "$folder/net" "$folder/rootfs"
(cd "$folder/rootfs" && mkdir -p usr proc sys dev etc run tmp && ln -s usr/bin usr/sbin usr/lib .)
if [ -d /usr/lib64 ]; then ln -s usr/lib64 "$folder/rootfs/lib64"; fi
mkfifo "$folder/rootfs/go"
cat >"$folder/net/10-weft.conflist" <<CONFLIST
{
  "cniVersion": "1.0.0",
  "name": "weft",
  "disableCheck": true,
  "plugins": [{ "type": "weft-cni", "socket": "$socket" }]
}
CONFLIST
# The only thing that outlives the namespaces is an empty cgroup.
cgroup=$(basename "$(dirname "$folder")")
trap 'find /sys/fs/cgroup -depth -type d -path "*/$cgroup*" -exec rmdir {} +' EXIT

# The limits are those that every machine grants. runc takes every kind of cgroups; crun refuses hybrid ones.
cat >"$folder/containers.conf" <<CONF
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
cgroups = "no-conmon"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
[network]
network_backend = "cni"
network_config_dir = "$folder/net"
cni_plugin_dirs = ["$plugins"]
CONF
export CONTAINERS_CONF="$folder/containers.conf"
on_weft() {
    podman --root "$folder/root" --runroot /run/podman --tmpdir /run/podman/tmp --storage-driver vfs "$@"
}
run() {
    on_weft run --network weft --cgroup-parent "/$cgroup" --volume /usr:/usr:ro "$@"
}

# It says a word to the other host, and then waits to be told to end.
run --detach --name web --rootfs "$folder/rootfs" \
    bash -c "echo hello from podman >/dev/tcp/$address/$port; read -r _ </go" >/dev/null
on_weft inspect web --format '{{with .NetworkSettings.Networks.weft}}{{.IPAddress}}/{{.IPPrefixLen}} {{.MacAddress}}{{end}}'
echo go >"$folder/rootfs/go"
on_weft wait web
on_weft rm --force web >/dev/null

# With the address that it is asked to have; its network ends with it.
run --rm --ip 10.32.9.9 --rootfs "$folder/rootfs" grep -o 10.32.9.9 /proc/net/fib_trie | sort -u

# A second later the router may be there again: podman shows why it is not now.
sed -i "s|$socket|$socket.none|" "$folder/net/10-weft.conflist"
if run --rm --rootfs "$folder/rootfs" true; then
    echo "podman started a container without a network" >&2
    exit 1
fi
