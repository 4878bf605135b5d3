#!/usr/bin/env bash
# Stops what up.sh started, and takes away its containers, mounts, links, rules and cgroups. Images and
# binaries stay for the next start; with --wipe they go too.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
skip_unless_root_on_linux
set +e

containers() {
  [ -f "$RUN/containerd.pid" ] || return
  local id
  for id in $("${CTR[@]}" tasks ls -q 2>/dev/null); do
    "${CTR[@]}" tasks kill --signal KILL "$id"
  done
  sleep 0.5
  for id in $("${CTR[@]}" tasks ls -q 2>/dev/null); do "${CTR[@]}" tasks rm --force "$id"; done
  for id in $("${CTR[@]}" containers ls -q 2>/dev/null); do "${CTR[@]}" containers rm "$id"; done
} >/dev/null 2>&1

# those below this cluster's own folders, innermost first
mounts() {
  awk '{print $2}' /proc/mounts | grep -E "^($DATA|$SOCKETS)/" | sort -r | xargs -r -n 1 umount -l
}

network() {
  local name link
  for name in $(ip netns list 2>/dev/null | awk '/^cni-/ {print $1}'); do ip netns del "$name"; done
  for link in $(ls /sys/class/net/cni0/brif 2>/dev/null); do ip link del "$link"; done
  ip link del cni0
  nft delete table ip kube-proxy
  nft delete table ip6 kube-proxy
} 2>/dev/null

for name in workflow-controller kubelet kube-proxy coredns kube-scheduler kube-controller-manager kube-apiserver s3; do
  stop "$name"
done
containers
for name in containerd etcd dockerd; do stop "$name"; done
mounts
network
remove_cgroups kubepods
remove_cgroups rlvr-docker
[ ! -f "$RUN/sysctl" ] || xargs sysctl -qw <"$RUN/sysctl"
rm -f "$RUN/sysctl"
rm -rf "$SOCKETS" "$DATA"/{etcd,kubelet,kubelet-pki,pod-logs,cni,s3}
if [ "${1:-}" = --wipe ]; then rm -rf "$CLUSTER_DIR"; fi
exit 0
