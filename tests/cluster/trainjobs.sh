#!/usr/bin/env bash
# Lets the cluster that is up run TrainJobs: Kubeflow Trainer and JobSet, built from their Go modules.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
skip_unless_root_on_linux

trainer() {
  GOBIN=$BIN go install -trimpath -ldflags "-s -w" \
    "$TRAINER/cmd/trainer-controller-manager@v$TRAINER_VERSION"
  manifests_of trainer "$(module_source "$TRAINER@v$TRAINER_VERSION")/manifests"
  # JobSet's come from its own module, and not from a release's page
  sed -i '/third-party\/jobset/d' "$CLUSTER_DIR/trainer/overlays/manager/kustomization.yaml"
}

jobset() {
  local source
  source=$(module_source "sigs.k8s.io/jobset@v$JOBSET_VERSION")
  # not `go install`, which asks for all versions that there are, and a mirror may not list them
  (cd "$source" && go build -mod=readonly -trimpath -ldflags "-s -w" -o "$BIN/jobset-manager" .)
  manifests_of jobset "$source/config"
}

manifests_of() { # NAME FOLDER
  rm -rf "${CLUSTER_DIR:?}/$1"
  cp -r "$2" "$CLUSTER_DIR/$1"
  chmod -R u+w "$CLUSTER_DIR/$1"
}

apply() { # OVERLAY FOLDER VARIABLE IMAGE
  rm -rf "$2"
  cp -r "$HERE/manifests/$1" "$2"
  sed -i "s|\${$3}|$4|" "$2/kustomization.yaml"
  kubectl apply --server-side --kustomize "$2" >/dev/null
}

renice -n 10 $$ >/dev/null
build jobset "$JOBSET_VERSION"
build trainer "$TRAINER_VERSION"
static_image jobset "rlvr-jobset:$JOBSET_VERSION" jobset-manager /manager
static_image trainer-manager "rlvr-trainer-manager:$TRAINER_VERSION" trainer-controller-manager /manager
apply jobset "$CLUSTER_DIR/jobset/rlvr" JOBSET_IMAGE "rlvr-jobset:$JOBSET_VERSION"
apply trainer "$CLUSTER_DIR/trainer/overlays/rlvr" \
  TRAINER_IMAGE "rlvr-trainer-manager:$TRAINER_VERSION"
kubectl --namespace jobset-system rollout status deployment/jobset-controller-manager \
  --timeout=240s >/dev/null
kubectl --namespace kubeflow-system rollout status deployment/kubeflow-trainer-controller-manager \
  --timeout=240s >/dev/null
say "TrainJobs run"
