#!/usr/bin/env bash
# Package: @apidevtools/swagger-parser 12.1.0 (npm)
# Input: an OpenAPI document whose answer has a schema with two slips: "type": "strnig", "minLength": "three". Once it
#   calls itself 3.0.3, once 3.1.0.
# Behaviour: the newer document is valid. For 3.1 the library checks with the OpenAPI Initiative's schema, which
#   leaves the inside of every schema object to a JSON Schema dialect that the library does not load: a move from 3.0
#   to 3.1 turns the check of all schemas off, silently.
# Seen: 3.0.3: refused, Swagger schema validation failed.
# Seen: 3.1.0: valid
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

npm init -y >/dev/null
npm install --loglevel=error --no-audit --no-fund --ignore-scripts \
  @apidevtools/swagger-parser@12.1.0 \
  >npm.log 2>&1 || { cat npm.log >&2; exit 2; }
cat >finding.js <<'END'
const parser = require('@apidevtools/swagger-parser')
const SwaggerParser = parser.default ?? parser

const schema = {type: 'strnig', minLength: 'three'}
const document = version => ({
  openapi: version,
  info: {title: 'Tasks', version: '1'},
  paths: {'/tasks': {get: {responses: {200: {description: 'ok', content: {'application/json': {schema}}}}}}},
})

async function main() {
  for (const version of ['3.0.3', '3.1.0']) {
    try {
      await SwaggerParser.validate(document(version))
      console.log(`${version}: valid`)
    } catch (e) {
      console.log(`${version}: refused, ${e.message.split('\n')[0].trim()}`)
    }
  }
}
main()
END

seen=$(node finding.js)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
