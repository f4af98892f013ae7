#!/usr/bin/env bash
# Runs check.sh on another release of Debian than this machine's own: in a minimal system that debootstrap makes in a
# temporary folder, with mounts and processes of its own. It takes the network, for packages, and from this machine the
# authorities that its administrator trusts, and the Go toolchain with what it has downloaded. It leaves nothing behind. As
# root; 3 GB of disk. The exit status is check.sh's.
#
#   deploy/check-on.sh trixie              everything
#   deploy/check-on.sh trixie nginx logs   only these parts
set -u -o pipefail

[ $# -gt 0 ] || { echo "usage: $0 RELEASE [PART…]" >&2; exit 2; }
release=$1
shift
repo=$(cd "$(dirname "$0")/.." && pwd)
[ "$(id -u)" -eq 0 ] || { echo "$0 needs root: it mounts" >&2; exit 1; }
command -v debootstrap >/dev/null || apt-get -o DPkg::Lock::Timeout=600 install -y -qq debootstrap >/dev/null || exit

root=$(mktemp -d "/var/tmp/taskapi-$release.XXXXXX")
trap 'rm -rf --one-file-system "$root" "$root.log"' EXIT
chmod 755 "$root" # not everybody in there is root
trap 'exit 130' INT TERM
# Git is for make build, which asks it for the revision; the rest that a part needs, it installs itself. Without the
# authorities, Go and npm would refuse all that comes through a proxy which looks into it.
{ debootstrap --variant=minbase --include=ca-certificates,git,systemd "$release" "$root" &&
  find /usr/local/share/ca-certificates/ -name '*.crt' -exec cp -t "$root/usr/local/share/ca-certificates/" {} + &&
  chroot "$root" update-ca-certificates; } >"$root.log" 2>&1 || { tail -n 5 "$root.log"; exit 1; }
cp /etc/resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root/opt/taskapi"
cp -a --no-preserve=ownership "$repo/." "$root/opt/taskapi"

{ read -r goroot; read -r modules; read -r cache; } < <(go env GOROOT GOMODCACHE GOCACHE)
export root goroot modules cache

# inside PART…: becomes the first process of that system. The mounts are in a namespace of its own and end with it; in there,
# systemd-nspawn wants a root that is one of them.
# shellcheck disable=SC2016
inside='
  mount --bind "$root" "$root" && mount --rbind /dev "$root/dev" && mount --rbind /sys "$root/sys" && mount -t proc proc "$root/proc" &&
    mount -t tmpfs tmpfs "$root/run" || exit
  for shared in "$goroot" "$modules" "$cache"; do
    mkdir -p "$root$shared" && mount --bind "$shared" "$root$shared" || exit
  done
  cd "$root" && pivot_root . . && umount -l . || exit
  exec chroot . env -i -C /opt/taskapi HOME=/root LANG=C.UTF-8 GOTOOLCHAIN=local GOFLAGS=-buildvcs=auto \
    GOMODCACHE="$modules" GOCACHE="$cache" PATH="$goroot/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
    deploy/check.sh "$@"'
unshare --mount --propagation private --pid --fork --kill-child bash -c "$inside" - "$@"
