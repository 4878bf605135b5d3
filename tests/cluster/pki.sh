#!/usr/bin/env bash
# Makes the cluster's certificates and its components' kubeconfigs, once.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
[ ! -f "$ETC/admin.conf" ] || exit 0
mkdir -p "$ETC/pki"
cd "$ETC/pki"

certificate() { # NAME SUBJECT [ALTERNATIVE_NAMES]
  openssl ecparam -genkey -name prime256v1 -noout -out "$1.key"
  openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
  {
    echo "extendedKeyUsage=clientAuth,serverAuth"
    [ -z "${3:-}" ] || echo "subjectAltName=$3"
  } >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 \
    -extfile "$1.ext" -out "$1.crt"
}

kubeconfig() { # NAME
  cat >"$ETC/$1.conf" <<EOF
apiVersion: v1
kind: Config
clusters:
- name: rlvr
  cluster: {server: "https://$NODE_IP:6443", certificate-authority: $ETC/pki/ca.crt}
users:
- name: $1
  user: {client-certificate: $ETC/pki/$1.crt, client-key: $ETC/pki/$1.key}
contexts:
- name: rlvr
  context: {cluster: rlvr, user: $1}
current-context: rlvr
EOF
}

{
  openssl ecparam -genkey -name prime256v1 -noout -out ca.key
  openssl req -x509 -new -key ca.key -subj /CN=rlvr-cluster-ca -days 3650 -out ca.crt \
    -addext "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"
  openssl genrsa -out service-accounts.key 2048
  openssl rsa -in service-accounts.key -pubout -out service-accounts.pub
  service=kubernetes.default.svc
  certificate apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:$service,\
DNS:$service.cluster.local,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:$NODE_IP"
  certificate kubelet "/O=system:nodes/CN=system:node:$NODE" "DNS:$NODE,IP:$NODE_IP"
  certificate apiserver-to-kubelet /O=system:masters/CN=apiserver-to-kubelet
  certificate controller-manager /CN=system:kube-controller-manager
  certificate scheduler /CN=system:kube-scheduler
  certificate proxy /CN=system:kube-proxy
  certificate coredns /CN=system:coredns
  certificate admin /O=system:masters/CN=admin
} 2>"$LOGS/pki.log"
for name in kubelet controller-manager scheduler proxy coredns admin; do kubeconfig "$name"; done
