#!/usr/bin/env bash
# Make this machine able to run labs: install what is missing, check that containers can work.
# usage: lab/machine.sh [MORE_PACKAGES...]
set -euo pipefail

fail() {
  echo "lab: $*" >&2
  exit 1
}

packages=(aardvark-dns ca-certificates debian-archive-keyring iproute2 iptables mmdebstrap netavark openssh-client podman runc "$@")

[[ $(id -u) == 0 ]] || fail "run as root: systemd hosts in rootless containers are not supported"
command -v apt-get > /dev/null || fail "this needs a Debian-like machine (apt-get was not found)"

installed=$(dpkg-query --show --showformat '${db:Status-Status} ${Package}\n' "${packages[@]}" 2> /dev/null | grep -c '^installed' || true)
if [[ $installed != "${#packages[@]}" ]]; then
  echo "lab: installing ${packages[*]}" >&2
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" > /dev/null
fi
podman info > /dev/null || fail "podman does not work on this machine (see the message above)"
