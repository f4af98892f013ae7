#!/usr/bin/env bash
# Package: openapi-to-postmanv2 6.3.3 (npm)
# Input: GET /tasks with one optional query parameter, after, a string without an example.
# Behaviour: the request in the collection sends it, with its type in angle brackets for a value, not disabled: the
#   first press on "Send" asks for the tasks after the one called <string>.
# Seen: {"key":"after","value":"<string>","disabled":false}
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

npm init -y >/dev/null
npm install --loglevel=error --no-audit --no-fund --ignore-scripts \
  openapi-to-postmanv2@6.3.3 \
  >npm.log 2>&1 || { cat npm.log >&2; exit 2; }
cat >finding.js <<'END'
const converter = require('openapi-to-postmanv2')

const data = {
  openapi: '3.1.0',
  info: {title: 'Tasks', version: '1'},
  paths: {'/tasks': {get: {
    parameters: [{name: 'after', in: 'query', schema: {type: 'string'}}],
    responses: {200: {description: 'tasks'}},
  }}},
}
const requests = item => item.item ? item.item.flatMap(requests) : [item.request]

converter.convert({type: 'json', data}, {}, (error, result) => {
  if (error) throw error
  const [request] = result.output[0].data.item.flatMap(requests)
  for (const {key, value, disabled} of request.url.query) console.log(JSON.stringify({key, value, disabled}))
})
END

seen=$(node finding.js)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
