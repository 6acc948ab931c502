#!/bin/sh
# Build a base image without a registry: Debian from debootstrap, as slim as `debian:bookworm-slim`. It has this
# machine's apt sources, pip configuration and certificate authorities, so that builds on it can install packages.
# Usage, as root, with debootstrap and buildah: deploy/base.sh [IMAGE]
set -eu
image=${1:-localhost/debian:bookworm-slim}

container=$(buildah from scratch)
trap 'buildah rm "$container" > /dev/null' EXIT
root=$(buildah mount "$container")
debootstrap --variant=minbase bookworm "$root"

# Leave out what the official slim image leaves out, now and in every later installation.
cat > "$root/etc/dpkg/dpkg.cfg.d/slim" <<'END'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
END
find "$root/usr/share/doc" -type f ! -name copyright -delete
find "$root/usr/share/doc" -type d -empty -delete
for emptied in usr/share/info usr/share/locale usr/share/man var/lib/apt/lists var/cache/apt var/cache/debconf var/log; do
    find "$root/$emptied" -mindepth 1 -delete
done

if [ -f /etc/apt/sources.list.d/debian.sources ]; then
    cp /etc/apt/sources.list.d/debian.sources "$root/etc/apt/sources.list.d/"
    : > "$root/etc/apt/sources.list"
fi
grep -l '^Acquire' /etc/apt/apt.conf.d/* 2> /dev/null | while read -r rules; do
    cp "$rules" "$root/etc/apt/apt.conf.d/"
done
# The certificate bundle for now, and the certificates from which Debian's ca-certificates rebuilds it if installed.
mkdir -p "$root/etc/ssl/certs" "$root/usr/local/share/ca-certificates"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" || true
cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/" || true
[ ! -f /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/pip.conf"

buildah umount "$container" > /dev/null
buildah config --cmd bash "$container"
buildah commit --quiet --format docker "$container" "$image"
