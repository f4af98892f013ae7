#!/usr/bin/env bash
# Package: github.com/hashicorp/go-retryablehttp v0.7.8
# Input: one POST to a server that stores it and then answers 500.
# Behaviour: the default policy looks at the answer only, not at the method: the POST is sent five times (RetryMax 4),
#   and what it creates exists five times. RFC 9110 9.2.2 has a client retry by itself only what is idempotent. In the
#   end the caller gets no answer, only an error: status and body of the 500 are gone.
# Seen: requests that the server has seen: 5
# Seen: response nil: true, error nil: false
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

export GOMODCACHE=$work/mod GOFLAGS='-mod=mod -modcacherw -trimpath'
go mod init finding 2>/dev/null
go mod edit -require=github.com/hashicorp/go-retryablehttp@v0.7.8
cat >main.go <<'END'
package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

func main() {
	var stored atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stored.Add(1)
		http.Error(w, "stored, but the index failed", http.StatusInternalServerError)
	}))
	defer server.Close()

	client := retryablehttp.NewClient()
	client.Logger = nil
	client.RetryWaitMin, client.RetryWaitMax = time.Millisecond, time.Millisecond // the waits alone are shortened
	answer, err := client.Post(server.URL, "application/json", strings.NewReader(`{"task_name":"x"}`))
	fmt.Println("requests that the server has seen:", stored.Load())
	fmt.Printf("response nil: %v, error nil: %v\n", answer == nil, err == nil)
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

seen=$(./finding)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
