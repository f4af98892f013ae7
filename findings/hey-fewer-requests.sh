#!/usr/bin/env bash
# Package: hey 0.1.4-2+b4 (Debian 12)
# Input: hey -n 100 -c 30, at a server on this host that counts.
# Behaviour: each of the 30 workers sends 100/30 requests, rounded down: 90 in all, and hey does not say that 10 are
#   missing. Whoever compares a counter of the service with -n finds a loss that never was.
# Seen: hey says: 90 responses
# Seen: the server has seen: 90
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get download -qq -o APT::Sandbox::User=root hey=0.1.4-2+b4 >apt.log 2>&1 || { cat apt.log >&2; exit 2; }
for deb in *.deb; do dpkg -x "$deb" root; done
cat >server.go <<'END'
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"sync/atomic"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	var requests atomic.Int32
	go http.Serve(listener, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))

	out, err := exec.Command("root/usr/bin/hey", "-n", "100", "-c", "30", "http://"+listener.Addr().String()+"/").Output()
	if err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	fmt.Printf("hey says: %s\n", regexp.MustCompile(`\d+ responses`).Find(out))
	fmt.Println("the server has seen:", requests.Load())
}
END

seen=$(go run server.go)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
