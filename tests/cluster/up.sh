#!/usr/bin/env bash
# Starts a real single-node Kubernetes on this machine, fresh at every start, with the training operator
# and an S3 server. Needs root on Linux; neither systemd nor a registry. down.sh takes all of it away.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
skip_unless_root_on_linux

main() {
  install_packages containerd runc containernetworking-plugins debootstrap docker.io nftables \
    iptables conntrack ethtool socat iproute2 openssl curl ca-certificates
  "$HERE/down.sh"
  "$HERE/build.sh"
  rm -f "$LOGS"/kube*.log "$LOGS"/{etcd,coredns,containerd,s3}.log
  bridge
  "$HERE/pki.sh"
  start_containerd
  "$HERE/images.sh"
  control_plane
  dns
  node
  s3
  operator
  say "the cluster is up; export KUBECONFIG=$KUBECONFIG"
}

# One bridge is the node's, the API server's and the name server's address.
bridge() {
  local setting
  ip link show cni0 >/dev/null 2>&1 || ip link add cni0 type bridge
  ip address replace "$NODE_IP/24" dev cni0
  ip link set cni0 up
  # the kubelet sets the last three; down.sh puts all of them back
  for setting in net.ipv4.ip_forward vm.overcommit_memory kernel.panic kernel.panic_on_oops; do
    echo "$setting=$(sysctl -n $setting)"
  done >"$RUN/sysctl"
  sysctl -qw net.ipv4.ip_forward=1
  # only there with br_netfilter, and needed only then: Services between pods of one bridge
  sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true
  mkdir -p "$ETC/cni"
  cat >"$ETC/cni/10-rlvr.conflist" <<EOF
{"cniVersion": "1.0.0", "name": "rlvr", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$DATA/cni",
            "ranges": [[{"subnet": "$POD_CIDR", "rangeStart": "10.244.0.10"}]]}}]}
EOF
}

control_plane() {
  local pki=$ETC/pki
  start etcd etcd --name rlvr --data-dir "$DATA/etcd" --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster rlvr=http://127.0.0.1:2380
  # by name, logs and exec would not find the node
  start kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 \
    --bind-address="$NODE_IP" --advertise-address="$NODE_IP" --secure-port=6443 \
    --service-cluster-ip-range="$SERVICE_CIDR" --authorization-mode=Node,RBAC \
    --allow-privileged=true --enable-admission-plugins=NodeRestriction \
    --client-ca-file="$pki/ca.crt" \
    --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
    --kubelet-client-certificate="$pki/apiserver-to-kubelet.crt" \
    --kubelet-client-key="$pki/apiserver-to-kubelet.key" \
    --kubelet-certificate-authority="$pki/ca.crt" \
    --kubelet-preferred-address-types=InternalIP \
    --requestheader-client-ca-file="$pki/ca.crt" \
    --requestheader-allowed-names=front-proxy-client \
    --requestheader-username-headers=X-Remote-User \
    --requestheader-group-headers=X-Remote-Group \
    --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-key-file="$pki/service-accounts.pub" \
    --service-account-signing-key-file="$pki/service-accounts.key"
  wait_for 60 "the API server is ready" kubectl get --raw /readyz
  start kube-controller-manager kube-controller-manager \
    --kubeconfig="$ETC/controller-manager.conf" \
    --authentication-kubeconfig="$ETC/controller-manager.conf" \
    --authorization-kubeconfig="$ETC/controller-manager.conf" \
    --bind-address=127.0.0.1 --leader-elect=false --use-service-account-credentials \
    --resource-quota-sync-period=10s \
    --root-ca-file="$pki/ca.crt" \
    --service-account-private-key-file="$pki/service-accounts.key" \
    --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key"
  start kube-scheduler kube-scheduler --kubeconfig="$ETC/scheduler.conf" \
    --authentication-kubeconfig="$ETC/scheduler.conf" \
    --authorization-kubeconfig="$ETC/scheduler.conf" \
    --bind-address=127.0.0.1 --leader-elect=false
}

# A process of the host; the kubelet writes its address into every pod. Names that do not exist are not
# cached: a worker that asks too early for its master would wait for the cache.
dns() {
  cat >"$ETC/Corefile" <<EOF
.:53 {
  bind $NODE_IP
  health 127.0.0.1:8082
  ready 127.0.0.1:8181
  errors
  cache 5 {
    denial 9984 1
    disable denial
  }
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $ETC/coredns.conf rlvr
    pods insecure
    ttl 5
  }
}
EOF
  kubectl apply --filename "$HERE/manifests/system.yaml" >/dev/null
  start coredns coredns -conf "$ETC/Corefile"
}

node() {
  # without kube-proxy, the operator's webhook has no address and no job can be created
  cat >"$ETC/kube-proxy.yaml" <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: $NODE
clusterCIDR: $POD_CIDR
bindAddress: $NODE_IP
oomScoreAdj: 0
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
clientConnection: {kubeconfig: $ETC/proxy.conf}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
EOF
  start kube-proxy kube-proxy --config="$ETC/kube-proxy.yaml"
  : >"$ETC/resolv.conf" # pods ask CoreDNS only, for names of the cluster
  cat >"$ETC/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$SOCKETS/containerd.sock
cgroupDriver: cgroupfs
failSwapOn: false
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $ETC/pki/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: $ETC/pki/kubelet.crt
tlsPrivateKeyFile: $ETC/pki/kubelet.key
address: $NODE_IP
healthzBindAddress: 127.0.0.1
readOnlyPort: 0
makeIPTablesUtilChains: false
clusterDomain: cluster.local
clusterDNS: [$NODE_IP]
resolvConf: $ETC/resolv.conf
podLogsDir: $DATA/pod-logs
enableControllerAttachDetach: true
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 100Mi, nodefs.available: 1Gi, imagefs.available: 1Gi}
oomScoreAdj: 0
EOF
  start kubelet kubelet --config="$ETC/kubelet.yaml" --kubeconfig="$ETC/kubelet.conf" \
    --hostname-override="$NODE" --node-ip="$NODE_IP" \
    --root-dir="$DATA/kubelet" --cert-dir="$DATA/kubelet-pki"
  wait_for 90 "the node is ready" \
    kubectl wait --for=condition=Ready "node/$NODE" --timeout=1s
  wait_for 60 "pods can be created" kubectl get serviceaccount default
  wait_for 30 "names are served" curl -sf http://127.0.0.1:8181/ready
}

s3() {
  mkdir -p "$DATA/s3"
  start s3 env ROOT_ACCESS_KEY="$S3_ACCESS_KEY" ROOT_SECRET_KEY="$S3_SECRET_KEY" \
    versitygw --port "${S3_ENDPOINT#http://}" posix "$DATA/s3"
  wait_for 30 "the bucket is there" curl -sf --request PUT --user "$S3_ACCESS_KEY:$S3_SECRET_KEY" \
    --aws-sigv4 aws:amz:us-east-1:s3 --header "x-amz-content-sha256: $(sha256sum </dev/null | cut -c1-64)" \
    "$S3_ENDPOINT/$S3_BUCKET"
}

operator() {
  local overlays=$CLUSTER_DIR/manifests/overlays
  rm -rf "$overlays/rlvr" "$overlays/rlvr-operator"
  cp -r "$HERE/manifests/operator" "$overlays/rlvr"
  cp -r "$ROOT/manifests/operator" "$overlays/rlvr-operator"
  sed -i -e "s|\${OPERATOR_IMAGE}|rlvr-training-operator:$OPERATOR_VERSION|" \
    -e "s|\${COMPONENTS_IMAGE}|rlvr-components:$RLVR_VERSION|" "$overlays/rlvr/kustomization.yaml"
  kubectl apply --server-side --kustomize "$overlays/rlvr" >/dev/null
  kubectl --namespace kubeflow rollout status deployment/training-operator --timeout=180s >/dev/null
  say "the training operator is ready"
  kubectl apply --server-side --kustomize "$CLUSTER_DIR/trainer-crds" >/dev/null
}

main
