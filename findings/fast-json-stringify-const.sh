#!/usr/bin/env bash
# Package: fast-json-stringify 7.3.10 (npm)
# Input: an object with status "done", written with a schema that says const: "pending" for it, and enum: ["pending"].
# Behaviour: what is written (by Fastify, too, which uses the package) is the schema's word, not the object's: the
#   client reads "pending". With enum, which means the same, the object's own value is written. Neither is an error.
# Seen: const: {"status":"pending"}
# Seen: enum: {"status":"done"}
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

npm init -y >/dev/null
npm install --loglevel=error --no-audit --no-fund --ignore-scripts \
  fast-json-stringify@7.3.10 \
  >npm.log 2>&1 || { cat npm.log >&2; exit 2; }
cat >finding.js <<'END'
const build = require('fast-json-stringify')
const write = status => build({type: 'object', properties: {status}})
console.log(`const: ${write({const: 'pending'})({status: 'done'})}`)
console.log(`enum: ${write({enum: ['pending']})({status: 'done'})}`)
END

seen=$(node finding.js)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
