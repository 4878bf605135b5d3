#!/usr/bin/env bash
# Lets the cluster that is up run Argo's Workflows: its controller, built from Argo's Go module, as a
# process of this machine. go/argoexec stands in for its executor.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
skip_unless_root_on_linux

argo() {
  local source
  source=$(module_source "$ARGO@v$ARGO_VERSION")
  # not `go install`, see trainjobs.sh
  (cd "$source" && go build -mod=readonly -trimpath -ldflags "-s -w" -o "$BIN/" ./cmd/workflow-controller)
  rm -rf "$CLUSTER_DIR/argo-crds"
  cp -r "$source/manifests/base/crds/minimal" "$CLUSTER_DIR/argo-crds"
  chmod -R u+w "$CLUSTER_DIR/argo-crds"
}

argoexec() {
  (cd "$HERE/go" && go build -mod=readonly -trimpath -ldflags "-s -w" -o "$BIN/" ./argoexec)
}

renice -n 10 $$ >/dev/null
build argo "$ARGO_VERSION"
build argoexec "$HERE/go/argoexec"
static_image argoexec rlvr-argoexec:1 argoexec /bin/argoexec
kubectl apply --server-side --kustomize "$CLUSTER_DIR/argo-crds" >/dev/null
kubectl apply --filename "$HERE/manifests/argo.yaml" >/dev/null
if [ ! -f "$RUN/workflow-controller.pid" ]; then
  start workflow-controller env LEADER_ELECTION_DISABLE=true workflow-controller \
    --kubeconfig "$KUBECONFIG" --namespace argo --executor-image rlvr-argoexec:1 \
    --executor-image-pull-policy IfNotPresent
fi
wait_for 60 "Argo's controller runs" curl -sf http://127.0.0.1:6060/healthz
say "Workflows run"
