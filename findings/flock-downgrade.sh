#!/usr/bin/env bash
# Package: github.com/gofrs/flock v0.13.2
# Input: TryRLock on a Flock that holds the exclusive lock already (a helper that only reads, called by one that
#   writes).
# Behaviour: no error and no wait: flock(2) turns the exclusive lock into a shared one, and others get theirs.
#   Locked() is still true, so the writer does not learn that it is no longer alone.
# Seen: exclusive: Locked true, another reader gets in: false
# Seen: after TryRLock (true, <nil>): Locked true, another reader gets in: true
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

export GOMODCACHE=$work/mod GOFLAGS='-mod=mod -modcacherw -trimpath'
go mod init finding 2>/dev/null
go mod edit -require=github.com/gofrs/flock@v0.13.2
cat >main.go <<'END'
package main

import (
	"fmt"

	"github.com/gofrs/flock"
)

func othersGetIn() bool {
	other := flock.New("lock")
	defer other.Close()
	got, err := other.TryRLock()
	return got && err == nil
}

func main() {
	own := flock.New("lock")
	if err := own.Lock(); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("exclusive: Locked %v, another reader gets in: %v\n", own.Locked(), othersGetIn())
	got, err := own.TryRLock()
	fmt.Printf("after TryRLock (%v, %v): Locked %v, another reader gets in: %v\n", got, err, own.Locked(), othersGetIn())
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

seen=$(./finding)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
