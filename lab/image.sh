#!/usr/bin/env bash
# Print the name of a bare Debian host's image, after building it where it is missing.
# usage: lab/image.sh            build it
#        lab/image.sh --remove   remove every image that was built and that no container uses
# LAB_SUITE=trixie chooses another suite than bookworm.
# TEST_IMAGE=registry/name:tag names an image to use instead; it must boot systemd and run sshd.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=${LAB_SUITE:-bookworm}
digest=$(sha256sum lab/image.sh | cut -c1-8)
image=localhost/airflow-lab:$suite-$digest
cache=.cache/lab
tar=$cache/$suite-$digest.tar

if [[ ${1:-} == --remove ]]; then
  podman images --quiet --filter "reference=${image%:*}" | sort -u | while read -r id; do
    podman rmi "$id" > /dev/null 2>&1 || true
  done
  rm -rf "$cache"
  rmdir --ignore-fail-on-non-empty .cache 2> /dev/null || true
  exit
fi

if [[ -n ${TEST_IMAGE:-} ]]; then
  podman image exists "$TEST_IMAGE" || podman pull --quiet "$TEST_IMAGE" >&2
  echo "$TEST_IMAGE"
  exit
fi

# This machine's own Debian mirrors, for any suite; none are printed where it is no Debian, and mmdebstrap's default serves.
sources() {
  # shellcheck disable=SC2016  # apt-get fills these in
  apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | sort -u |
    while read -r label uri; do
      case $label in
        Debian) printf 'deb %s %s main\n' "$uri" "$suite" "$uri" "$suite-updates" ;;
        Debian-Security) echo "deb $uri $suite-security main" ;;
      esac
    done
}

packages=(ca-certificates dbus iproute2 openssh-server procps python3 python3-apt sudo systemd systemd-sysv)

# One build at a time: labs that start together share it.
mkdir -p "$cache"
exec 9> "$cache/lock"
flock 9

if ! [[ -e $tar ]]; then
  echo "lab: building a $suite host (half a minute)" >&2
  rm -f "$cache/$suite"-*
  mapfile -t mirrors < <(sources)
  # shellcheck disable=SC2016  # mmdebstrap's shell knows $1
  # The options stay in the image. They make installing quick where a power cut does not matter, and leave out what no test reads.
  # Host keys come from the lab: two hosts never share one by accident.
  mmdebstrap --quiet --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='rm -f "$1"/etc/ssh/ssh_host_*' \
    "$suite" "$tar.part.tar" "${mirrors[@]}" >&2
  mv "$tar.part.tar" "$tar"
fi

podman image exists "$image" ||
  podman import --quiet --change 'CMD ["/lib/systemd/systemd"]' --change 'STOPSIGNAL SIGRTMIN+3' --change 'ENV container=podman' \
    "$tar" "$image" >&2
echo "$image"
