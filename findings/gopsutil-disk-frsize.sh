#!/usr/bin/env bash
# Package: github.com/shirou/gopsutil/v3 v3.24.5
# Package: github.com/hanwen/go-fuse/v2 v2.12.1
# Input: a mounted FUSE file system of 1,000 blocks, 250 of them free, whose f_frsize is 4 KiB and whose f_bsize, the
#   size it likes to be read in, is 1 MiB (virtiofs of Docker Desktop is such a one). Needs root and /dev/fuse.
# Behaviour: blocks are counted in f_frsize (POSIX, statvfs); disk.Usage multiplies by f_bsize, so every size is 256
#   times what df and stat(1) say. The percentage is right: the factor cancels out.
# Seen: df: total 4096000 free 1024000 used 75%
# Seen: gopsutil: total 1048576000 free 262144000 used 75%
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

export GOMODCACHE=$work/mod GOFLAGS='-mod=mod -modcacherw -trimpath'
go mod init finding 2>/dev/null
go mod edit -require=github.com/shirou/gopsutil/v3@v3.24.5
go mod edit -require=github.com/hanwen/go-fuse/v2@v2.12.1
cat >main.go <<'END'
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/shirou/gopsutil/v3/disk"
)

type root struct{ fs.Inode }

func (*root) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	*out = fuse.StatfsOut{Blocks: 1000, Bfree: 250, Bavail: 250, Bsize: 1 << 20, Frsize: 4 << 10, NameLen: 255}
	return 0
}

func main() {
	options := &fs.Options{MountOptions: fuse.MountOptions{DirectMount: true}}
	server, err := fs.Mount(os.Args[1], &root{}, options)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	defer server.Unmount()
	df, err := exec.Command("df", "--block-size=1", "--output=size,avail,pcent", os.Args[1]).Output()
	if err != nil {
		fmt.Println("df:", err)
	}
	columns := strings.Fields(string(df)) // three titles, then three values
	if len(columns) == 6 {
		fmt.Printf("df: total %s free %s used %s\n", columns[3], columns[4], columns[5])
	}
	u, err := disk.Usage(os.Args[1])
	if err != nil {
		fmt.Println("gopsutil:", err)
		return
	}
	fmt.Printf("gopsutil: total %d free %d used %.0f%%\n", u.Total, u.Free, u.UsedPercent)
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

mkdir mnt
seen=$(./finding mnt)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
