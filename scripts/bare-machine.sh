#!/usr/bin/env bash
# Prove the README on a machine that has nothing of ours: a bare Debian 12 root made with debootstrap.
#
#     sudo scripts/bare-machine.sh [STEP ...]        steps: setup run second test ci      (default: run second test ci)
#
# It clones the committed HEAD into the root and runs each step inside with chroot, printing what each one took:
#     run     `make run` until the printed curl line, then sends that very curl      second  the same again, timed
#     test    `make test`                                                            ci      `.ci/run` in a new clone
# BARE_DIR keeps the root for another time (default: a temporary folder, removed). BARE_CA_FILE, a bundle of certificate
# authorities, is copied inside when the network between here and the package registries needs one of its own.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "debootstrap and chroot need root" >&2; exit 1; }
command -v debootstrap > /dev/null || { echo "apt-get install debootstrap" >&2; exit 1; }
repository=$(cd "$(dirname "$0")/.." && pwd)
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(run second test ci)

if [ -n "${BARE_DIR:-}" ]; then base=$BARE_DIR; mkdir -p "$base"; else base=$(mktemp -d); fi
root=$base/root
gateway=""

leave() {
  [ -z "$gateway" ] || kill "$gateway" 2> /dev/null || true
  for mounted in "$root/dev" "$root/proc"; do umount "$mounted" 2> /dev/null || umount --lazy "$mounted" 2> /dev/null || true; done
  [ -n "${BARE_DIR:-}" ] || rm -rf --one-file-system "$base"
}
trap leave EXIT

if [ ! -e "$root/usr/bin/make" ]; then
  echo "+ debootstrap (python3, make, git and nothing else)"
  debootstrap --variant=minbase --include=python3,make,git bookworm "$root" > "$base/debootstrap.log"
fi
cp /etc/resolv.conf "$root/etc/resolv.conf"
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
mountpoint -q "$root/dev" || mount --bind /dev "$root/dev"

inside=(env -i "HOME=/root" "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" "LANG=C.UTF-8")
if [ -n "${BARE_CA_FILE:-}" ]; then
  cp "$BARE_CA_FILE" "$root/etc/elkapi-ca.pem"
  inside+=("PIP_CERT=/etc/elkapi-ca.pem" "SSL_CERT_FILE=/etc/elkapi-ca.pem" "NODE_EXTRA_CA_CERTS=/etc/elkapi-ca.pem")
fi
in_root() { chroot "$root" "${inside[@]}" bash -c "$1" < /dev/null; }

clone() {
  rm -rf "${root:?}$1"
  git clone --quiet --no-hardlinks "$repository" "$root$1"
}
[ -d "$root/srv/elkapi" ] && [ -n "${BARE_KEEP_CLONE:-}" ] || clone /srv/elkapi

# Start `make run`, wait for its curl line ($1 = seconds allowed), leave the line in $curl and the time in $took_s.
start() {
  local log=$base/run.log began
  : > "$log"  # The child that opens it may come to it later than the look below, which would find the last start's line.
  began=$(date +%s.%N)
  chroot "$root" "${inside[@]}" ${2:-} bash -c 'cd /srv/elkapi && exec make run' < /dev/null > "$log" 2>&1 &
  gateway=$!
  until curl=$(grep -m1 -A12 'curl ' "$log"); do
    kill -0 "$gateway" 2> /dev/null || { cat "$log"; echo "make run ended before it printed a curl" >&2; exit 1; }
    (( $(date +%s) - ${began%.*} < $1 )) || { cat "$log"; echo "no curl line within $1 s" >&2; exit 1; }
    sleep 0.1
  done
  took_s=$(echo "$(date +%s.%N) $began" | awk '{ printf "%.1f", $1 - $2 }')
  sleep 0.3; cat "$log"
}
stop() { # make does not always pass the signal on, so the supervisor below it gets it too.
  local child; child=$(pgrep -P "$gateway" || true)
  kill -TERM $child "$gateway" 2> /dev/null || true
  wait "$gateway" 2> /dev/null || true
  gateway=""
}

for step in "${steps[@]}"; do
  echo "=== $step"
  began=$(date +%s)
  case $step in
    setup) in_root 'cd /srv/elkapi && make setup' ;;
    run)
      start 180
      echo "--- make run: ready after $took_s s (goal: 180)"
      # The curl may span lines; it is the printed text from `curl` to the first line without a closing backslash.
      command=$(sed -n '/curl /,/[^\\]$/p' "$base/run.log" | sed 's/^.*curl /curl /;1!s/^ *//')
      key=$(grep -oE 'sk-[A-Za-z0-9_-]+' "$base/run.log" | head -1)
      echo "${command/curl /curl -sS }" | bash | head -c 300; echo
      stop ;;
    second)
      start 60 "ELKAPI_KEY=${key:-}"
      echo "--- make run again: ready after $took_s s (goal: 3)"
      stop ;;
    test) in_root 'cd /srv/elkapi && make test' ;;
    ci) clone /srv/ci && in_root 'cd /srv/ci && bash .ci/run' ;;
    *) echo "unknown step: $step" >&2; exit 1 ;;
  esac
  echo "=== $step: $(( $(date +%s) - began )) s"
done
