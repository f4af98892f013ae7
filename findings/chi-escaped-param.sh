#!/usr/bin/env bash
# Package: github.com/go-chi/chi/v5 v5.5.0
# Input: GET /tasks/{id} with ids that a client has escaped as RFC 3986 wants it.
# Behaviour: chi.URLParam is decoded for some ids and as it was sent for others: one escape that stands for a slash
#   (or any other that Go keeps in URL.RawPath) leaves the whole parameter undecoded, the other escapes in it
#   included. net/http's own mux decodes both.
# Seen: /tasks/%E8%B3%87%20A: chi "資 A", net/http "資 A"
# Seen: /tasks/%E8%B3%87%2FA: chi "%E8%B3%87%2FA", net/http "資/A"
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

export GOMODCACHE=$work/mod GOFLAGS='-mod=mod -modcacherw -trimpath'
go mod init finding 2>/dev/null
go mod edit -require=github.com/go-chi/chi/v5@v5.5.0
cat >main.go <<'END'
package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/go-chi/chi/v5"
)

func main() {
	router := chi.NewRouter()
	router.Get("/tasks/{id}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, chi.URLParam(r, "id")) })
	mux := http.NewServeMux()
	mux.HandleFunc("GET /tasks/{id}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.PathValue("id")) })

	for _, path := range []string{"/tasks/%E8%B3%87%20A", "/tasks/%E8%B3%87%2FA"} {
		fmt.Printf("%s: chi %q, net/http %q\n", path, get(router, path), get(mux, path))
	}
}

func get(h http.Handler, path string) string {
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, httptest.NewRequest("GET", path, nil))
	return answer.Body.String()
}
END
go build -o finding . 2>build.log || { cat build.log >&2; exit 2; }

seen=$(./finding)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
