#!/usr/bin/env bash
# Package: systemd 252.39-1~deb12u2 (Debian 12)
# Package: systemd-journal-remote 252.39-1~deb12u2 (Debian 12)
# Input: a journal with two messages, one of 4,000 and one of 5,000 characters.
# Behaviour: journalctl -o json writes "MESSAGE": null for the longer one, without a word, so jq -r .MESSAGE prints
#   "null", and what was looked for in the message is not found. The plain output has it whole; --all brings it back
#   in JSON.
# Seen: -o json: 4000 characters, null
# Seen: -o json --all: 4000 characters, 5000 characters
# Seen: -o cat: 4000 characters, 5000 characters
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get download -qq -o APT::Sandbox::User=root \
  systemd=252.39-1~deb12u2 systemd-journal-remote=252.39-1~deb12u2 libsystemd-shared=252.39-1~deb12u2 \
  libmicrohttpd12=0.9.75-6 jq=1.6-2.1+deb12u3 libjq1=1.6-2.1+deb12u3 libonig5=6.9.8-1 \
  >apt.log 2>&1 || { cat apt.log >&2; exit 2; }
for deb in *.deb; do dpkg -x "$deb" root; done
libraries=$work/root/usr/lib/x86_64-linux-gnu
export LD_LIBRARY_PATH=$libraries:$libraries/systemd

for length in 4000 5000; do
  printf '__REALTIME_TIMESTAMP=%d\n__MONOTONIC_TIMESTAMP=%d\n_BOOT_ID=%032d\n' "1796040000000$length" "$length" 1
  printf 'PRIORITY=6\nMESSAGE=%0*d\n\n' "$length" 0
done | root/lib/systemd/systemd-journal-remote -o two.journal - >journal.log 2>&1 || { cat journal.log >&2; exit 2; }

# show OPTION…: the messages of the journal.
show() { root/bin/journalctl --file two.journal "$@"; }
# lengths OPTION…: of the messages in journalctl's JSON.
lengths() {
  show -o json "$@" | root/usr/bin/jq -r '.MESSAGE | if . == null then "null" else "\(length) characters" end' | join
}
join() { paste -s -d , | sed 's/,/, /'; }

seen="-o json: $(lengths)
-o json --all: $(lengths --all)
-o cat: $(show -o cat | awk '{ print length($0) " characters" }' | join)"
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
