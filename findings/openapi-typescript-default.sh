#!/usr/bin/env bash
# Package: openapi-typescript 7.13.0 (npm)
# Input: an OpenAPI document with a request body of two members: name is required, user is not and has a default.
# Behaviour: in the generated type user is required: a client that leaves it out, as the default invites it to, does
#   not compile. That is right for an answer, where the default has been filled in, and the type is the same for both
#   directions. (--default-non-nullable=false is the way out.)
# Seen: with a default: name: string; user: string;
# Seen: without: name: string; user?: string;
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

npm init -y >/dev/null
npm install --loglevel=error --no-audit --no-fund --ignore-scripts \
  openapi-typescript@7.13.0 typescript@5.9.3 \
  >npm.log 2>&1 || { cat npm.log >&2; exit 2; }
# type_of USER: the type of the request body, in one line.
type_of() {
  cat >document.json <<END
{"openapi": "3.1.0", "info": {"title": "Tasks", "version": "1"}, "paths": {},
 "components": {"schemas": {"NewTask": {"type": "object", "required": ["name"],
   "properties": {"name": {"type": "string"}, "user": $1}}}}}
END
  node_modules/.bin/openapi-typescript document.json --output types.ts >generator.log 2>&1 ||
    { cat generator.log >&2; exit 2; }
  sed -n '/NewTask: {/,/};/p' types.ts | grep -oE '(name|user)\??: string;' | paste -s -d ' '
}
seen="with a default: $(type_of '{"type": "string", "default": "anonymous"}')
without: $(type_of '{"type": "string"}')"
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
