#!/usr/bin/env bash
# Lets the cluster that is up run Argo's Workflows: its controller as a process of this machine, its
# executor as an image of the node, both built from Argo's Go module.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
skip_unless_root_on_linux

argo() {
  local source=$CLUSTER_DIR/argo-source
  rm -rf "$source" "$CLUSTER_DIR/argo-crds"
  cp -r "$(module_source "$ARGO@v$ARGO_VERSION")" "$source"
  chmod -R u+w "$source"
  cp -r "$source/manifests/base/crds/minimal" "$CLUSTER_DIR/argo-crds"
  # a link in Argo's repository, which its module lacks
  mkdir -p "$source/ui/dist/app" && touch "$source/ui/dist/app/index.html" # which `argo` embeds
  cp "$source/workflow/executor/osspecific/signal_darwin.go" \
    "$source/workflow/executor/osspecific/signal_linux.go"
  # one call, so that what they share is compiled once
  (cd "$source" && go build -mod=readonly -trimpath -ldflags "-s -w" -o "$BIN/" \
    ./cmd/workflow-controller ./cmd/argoexec ./cmd/argo)
  rm -rf "$source"
}

renice -n 10 $$ >/dev/null
build argo "$ARGO_VERSION"
static_image argoexec "rlvr-argoexec:$ARGO_VERSION" argoexec /bin/argoexec
kubectl apply --server-side --kustomize "$CLUSTER_DIR/argo-crds" >/dev/null
kubectl apply --filename "$HERE/manifests/argo.yaml" >/dev/null
if [ ! -f "$RUN/workflow-controller.pid" ]; then
  start workflow-controller env LEADER_ELECTION_DISABLE=true workflow-controller \
    --kubeconfig "$KUBECONFIG" --namespace argo --executor-image "rlvr-argoexec:$ARGO_VERSION" \
    --executor-image-pull-policy IfNotPresent
fi
wait_for 60 "Argo's controller runs" curl -sf http://127.0.0.1:6060/healthz
say "Workflows run"
