#!/usr/bin/env bash
# Package: github.com/shirou/gopsutil/v3 v3.24.5
# Input: a /proc without meminfo, which is what systemd's ProcSubset=pid gives a service.
# Behaviour: mem.VirtualMemory has no error: the total is 0 and UsedPercent is NaN. encoding/json refuses NaN, so an
#   answer that was about to be written has no body.
# Seen: total 0, used NaN%, error <nil>
# Seen: json: unsupported value: NaN
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
	"encoding/json"
	"fmt"

	"github.com/shirou/gopsutil/v3/mem"
)

func main() {
	m, err := mem.VirtualMemory()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("total %d, used %v%%, error %v\n", m.Total, m.UsedPercent, err)
	_, err = json.Marshal(m.UsedPercent)
	fmt.Println(err)
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

mkdir proc
seen=$(HOST_PROC=$work/proc ./finding)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
