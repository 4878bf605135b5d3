#!/usr/bin/env bash
# Builds the images into the cluster's containerd: one static program each for pause and operator, and
# ours from docker/, on a base made by debootstrap. Ours are built by a Docker daemon of its own, which
# ends with this script.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
skip_unless_root_on_linux
install_packages containerd runc docker.io debootstrap

DOCKER_DIR=$CLUSTER_DIR/docker
DOCKER=(/usr/bin/docker --host "unix://$DOCKER_DIR/docker.sock")

start_docker() {
  mkdir -p "$DOCKER_DIR"
  # builds use the host's network, so Docker needs no bridge and touches no firewall
  start dockerd /usr/sbin/dockerd --data-root "$DOCKER_DIR/data" --exec-root "$SOCKETS/docker" \
    --pidfile "$SOCKETS/docker.pid" --host "unix://$DOCKER_DIR/docker.sock" \
    --bridge=none --iptables=false --ip6tables=false --oom-score-adjust 0 --cgroup-parent /rlvr-docker
  wait_for 30 "docker runs" "${DOCKER[@]}" version
}

stop_docker() {
  stop dockerd
  rm -rf "$SOCKETS/docker" "$SOCKETS/docker.pid"
  remove_cgroups rlvr-docker
}

base_image() {
  local root=$CLUSTER_DIR/base
  "${DOCKER[@]}" image inspect rlvr-base:bookworm >/dev/null 2>&1 && return 0
  say "base image by debootstrap"
  rm -rf "$root"
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root" \
    >"$LOGS/debootstrap.log" 2>&1
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* \
    "$root"/usr/share/{doc,man,locale}/*
  # the build trusts whom this machine trusts
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  tar --numeric-owner --exclude='./dev/*' -C "$root" -c . | "${DOCKER[@]}" import \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    - rlvr-base:bookworm >/dev/null
  rm -rf "$root"
}

our_image() { # NAME
  local name=$1 tag=rlvr-$1:$RLVR_VERSION options="--network host" inputs file
  inputs=$(digest "$ROOT/docker" "$ROOT/requirements" "$ROOT/pyproject.toml" "$ROOT/README.md" \
    "$ROOT/LICENSE" "$ROOT/trainer" "$ROOT/components" "$ROOT/pipelines" "$tag")
  have "image-$name" "$tag" "$inputs" && return 0
  [ -f "$RUN/dockerd.pid" ] || start_docker
  base_image
  for file in /etc/pip.conf "$HOME/.config/pip/pip.conf"; do
    [ ! -f "$file" ] || options+=" --secret id=pip,src=$file"
  done
  for file in /etc/uv/uv.toml "$HOME/.config/uv/uv.toml"; do
    [ ! -f "$file" ] || options+=" --secret id=uv,src=$file"
  done
  say "image $tag"
  make --no-print-directory -C "$ROOT" "image-$name" DOCKER="${DOCKER[*]}" \
    BASE_IMAGE=rlvr-base:bookworm DOCKER_BUILD_OPTIONS="$options" >"$LOGS/image-$name.log" 2>&1 || {
    tail -n 30 "$LOGS/image-$name.log" >&2
    return 1
  }
  say "image $tag to containerd"
  python3 "$HERE/from_docker.py" "$tag" "$DATA/containerd/layers.json" \
    -- "${DOCKER[@]}" -- "${CTR[@]}"
  note_made "image-$name" "$inputs"
}

finish() {
  stop_docker
  [ -z "$started_containerd" ] || stop containerd
}

started_containerd=
trap finish EXIT
if [ ! -f "$RUN/containerd.pid" ]; then
  started_containerd=yes
  start_containerd
fi
static_image pause rlvr-pause:1 pause /pause
static_image operator "rlvr-training-operator:$OPERATOR_VERSION" training-operator /manager
our_image components
[ "${RLVR_CLUSTER_TRAINER:-1}" = 0 ] || our_image trainer
say "images there"
