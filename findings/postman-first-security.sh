#!/usr/bin/env bash
# Package: openapi-to-postmanv2 6.3.3 (npm)
# Input: an operation that takes a bearer token or goes without: "security": [{}, {"bearer": []}], and the same list
#   in the other order. In OpenAPI the entries are alternatives, and their order means nothing.
# Behaviour: the converter, Postman's own, takes the first entry. With {} in front the request is set to "No Auth":
#   the token that the user has given to the collection is not sent.
# Seen: [{},{"bearer":[]}]: noauth
# Seen: [{"bearer":[]},{}]: bearer
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

const document = security => ({
  openapi: '3.1.0',
  info: {title: 'Tasks', version: '1'},
  paths: {'/tasks': {post: {security, responses: {201: {description: 'created'}}}}},
  components: {securitySchemes: {bearer: {type: 'http', scheme: 'bearer'}}},
})
const requests = item => item.item ? item.item.flatMap(requests) : [item.request]

for (const security of [[{}, {bearer: []}], [{bearer: []}, {}]]) {
  converter.convert({type: 'json', data: document(security)}, {}, (error, result) => {
    if (error) throw error
    const [request] = result.output[0].data.item.flatMap(requests)
    console.log(`${JSON.stringify(security)}: ${request.auth?.type}`)
  })
}
END

seen=$(node finding.js)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
