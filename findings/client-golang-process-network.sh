#!/usr/bin/env bash
# Package: github.com/prometheus/client_golang v1.25.0
# Input: a program that opens no socket, with the collector for its process, while another process sends 10 MiB over
#   loopback.
# Behaviour: process_network_receive_bytes_total grows by the bytes of the other process: /proc/PID/net/netstat, where
#   it is read, counts the whole network namespace. On a host without containers each program exports the host's
#   traffic as its own.
# Seen: grew by at least the other's 10 MiB: true
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

export GOMODCACHE=$work/mod GOFLAGS='-mod=mod -modcacherw -trimpath'
go mod init finding 2>/dev/null
go mod edit -require=github.com/prometheus/client_golang@v1.25.0
cat >main.go <<'END'
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

const size = 10 << 20

func main() {
	if len(os.Args) > 1 {
		transfer()
		return
	}
	before := received()
	if out, err := exec.Command(os.Args[0], "transfer").CombinedOutput(); err != nil {
		fmt.Println(err, string(out))
		return
	}
	fmt.Printf("grew by at least the other's 10 MiB: %v\n", received()-before >= size)
}

func received() float64 {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	families, err := registry.Gather()
	if err != nil {
		panic(err)
	}
	for _, f := range families {
		if f.GetName() == "process_network_receive_bytes_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	panic("no such metric")
}

func transfer() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			panic(err)
		}
		conn.Write(make([]byte, size))
		conn.Close()
	}()
	conn, err := listener.Accept()
	if err != nil {
		panic(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		panic(err)
	}
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

seen=$(./finding)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
