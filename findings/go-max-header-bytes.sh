#!/usr/bin/env bash
# Package: go 1.26.8
# Input: requests with one long header, each on a connection of its own, to a Server with MaxHeaderBytes: 16384.
# Behaviour: the limit is not the number: net/http adds 4,096 bytes for its buffer, so 20,000 bytes pass. A proxy in
#   front with the "same" limit refuses what the service takes.
# Seen: 16384 bytes: 200
# Seen: 20000 bytes: 200
# Seen: 20500 bytes: 431
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

export GOTOOLCHAIN=go1.26.8 GOMODCACHE=$work/mod GOFLAGS=-modcacherw
cat >main.go <<'END'
package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
)

func main() {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.MaxHeaderBytes = 16384
	server.Start()
	defer server.Close()
	for _, size := range []int{16384, 20000, 20500} {
		fmt.Printf("%d bytes: %d\n", size, ask(server.URL, size))
	}
}

func ask(url string, size int) int {
	r, err := http.NewRequest("GET", url, nil)
	if err != nil {
		panic(err)
	}
	r.Header.Set("X-Long", strings.Repeat("x", size))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		panic(err)
	}
	answer.Body.Close()
	return answer.StatusCode
}
END

seen=$(go run main.go)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
