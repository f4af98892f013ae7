#!/usr/bin/env bash
# Package: go go1.26.8
# Input: requests with one long header to a Server with MaxHeaderBytes: 16384, on new connections and on one that has
#   served a small request before.
# Behaviour: the limit is not the number. net/http adds 4,096 bytes for its buffer, so 20,000 bytes pass; and on a
#   connection that is used again the first 4,096 bytes of a request are read before the counting begins, so what is 431
#   on a new connection is 200 there. A proxy in front with the "same" limit refuses what the service takes.
# Seen: new connection, 16384 bytes: 200
# Seen: new connection, 20000 bytes: 200
# Seen: new connection, 20500 bytes: 431
# Seen: used connection, 20500 bytes: 200
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
		fmt.Printf("new connection, %d bytes: %d\n", size, ask(&http.Client{Transport: &http.Transport{}}, server.URL, size))
	}
	client := &http.Client{Transport: &http.Transport{}}
	ask(client, server.URL, 1)
	fmt.Printf("used connection, 20500 bytes: %d\n", ask(client, server.URL, 20500))
}

func ask(client *http.Client, url string, size int) int {
	r, err := http.NewRequest("GET", url, nil)
	if err != nil {
		panic(err)
	}
	r.Header.Set("X-Long", strings.Repeat("x", size))
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
