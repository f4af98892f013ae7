#!/usr/bin/env bash
# Package: github.com/shirou/gopsutil/v3 v3.24.5
# Input: two /proc/meminfo: MemAvailable 0 (a kernel at its reserve, gVisor), and MemAvailable above MemTotal (LXC).
# Behaviour: VirtualMemory hands on MemAvailable as it stands, without an error. In the first case 5 % of the memory
#   is free, and the usual (Total-Available)/Total says that none is; in the second, Total-Available is unsigned and
#   wraps to 16 EiB in use. free(1) of procps takes MemFree for both.
# Seen: at its reserve: total 8000000000 available 0 free 400000000 error <nil>
# Seen: above total: total 2000000000 available 8000000000 free 400000000 error <nil>
# Seen: total - available: 18446744067709551616
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

	"github.com/shirou/gopsutil/v3/mem"
)

func main() {
	m, err := mem.VirtualMemory()
	fmt.Printf("%s: total %d available %d free %d error %v\n", os.Args[1], m.Total, m.Available, m.Free, err)
	if m.Available > m.Total {
		fmt.Println("total - available:", m.Total-m.Available)
	}
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

# meminfo DIR TOTAL AVAILABLE: in kB.
meminfo() {
  mkdir "$1"
  printf '%-16s %8d kB\n' MemTotal: "$2" MemFree: 390625 MemAvailable: "$3" Buffers: 0 Cached: 0 >"$1/meminfo"
}
meminfo reserve 7812500 0
meminfo lxc 1953125 7812500
seen=$(HOST_PROC=$work/reserve ./finding 'at its reserve'; HOST_PROC=$work/lxc ./finding 'above total')
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
