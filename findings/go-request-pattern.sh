#!/usr/bin/env bash
# Package: go 1.26.8
# Input: a middleware that reads r.Pattern after next.ServeHTTP(w, r), for a metric's label, around a ServeMux with
#   GET /tasks/{id}; then the same with one more of net/http's own middlewares between the two.
# Behaviour: the mux writes the pattern into the request that it is given. StripPrefix, TimeoutHandler and everything
#   that calls WithContext hand on a copy, so the middleware outside reads "": the label is lost, and only on these
#   routes.
# Seen: the mux alone: "GET /tasks/{id}"
# Seen: StripPrefix between: ""
# Seen: TimeoutHandler between: ""
# Seen: WithContext between: ""
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
	"time"
)

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /tasks/{id}", func(http.ResponseWriter, *http.Request) {})
	withContext := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mux.ServeHTTP(w, r.WithContext(r.Context()))
	})
	show("the mux alone", mux, "/tasks/1")
	show("StripPrefix between", http.StripPrefix("/api", mux), "/api/tasks/1")
	show("TimeoutHandler between", http.TimeoutHandler(mux, time.Second, ""), "/tasks/1")
	show("WithContext between", withContext, "/tasks/1")
}

func show(what string, next http.Handler, path string) {
	r := httptest.NewRequest("GET", path, nil)
	next.ServeHTTP(httptest.NewRecorder(), r)
	fmt.Printf("%s: %q\n", what, r.Pattern)
}
END

seen=$(go run main.go)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
