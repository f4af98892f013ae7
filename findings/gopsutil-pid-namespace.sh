#!/usr/bin/env bash
# Package: github.com/shirou/gopsutil/v3 v3.24.5
# Input: a process with a pid namespace of its own and HOST_PROC at the host's /proc, as a container gets it that
#   shows readings of its host. Needs root.
# Behaviour: process.NewProcess(os.Getpid()) looks up the pid of the inner namespace in the host's /proc and describes
#   whoever has that number there, without an error. (The own /proc can be given in a context: common.EnvKey with
#   HostProcEnvKey.)
# Seen: HOST_PROC unset: pid 1 is the program itself
# Seen: HOST_PROC set: pid 1 is another process, error <nil>
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

export GOMODCACHE=$work/mod GOFLAGS='-mod=mod -modcacherw -trimpath'
go mod init finding 2>/dev/null
go mod edit -require=github.com/shirou/gopsutil/v3@v3.24.5
cat >main.go <<'END'
package main

import (
	"fmt"
	"os"

	"github.com/shirou/gopsutil/v3/process"
)

func main() {
	p, err := process.NewProcess(int32(os.Getpid()))
	if err != nil {
		fmt.Println(err)
		return
	}
	set := "unset"
	if os.Getenv("HOST_PROC") != "" {
		set = "set"
	}
	name, err := p.Name()
	if name == "finding" {
		fmt.Printf("HOST_PROC %s: pid %d is the program itself\n", set, p.Pid)
	} else {
		fmt.Printf("HOST_PROC %s: pid %d is another process, error %v\n", set, p.Pid, err)
	}
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

mkdir hostproc
# in_namespace: runs the program as pid 1 of a namespace with a /proc of its own; hostproc is the host's.
in_namespace() {
  unshare --mount --pid --fork bash -ec 'mount --rbind /proc hostproc; mount -t proc proc /proc; exec ./finding'
}
seen=$(in_namespace; HOST_PROC=$work/hostproc in_namespace)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
