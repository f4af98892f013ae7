#!/usr/bin/env bash
# Package: swagger-typescript-api 13.1.3 (npm)
# Input: an OpenAPI document with a component TaskID, a string, and GET /docs, whose answer is a text/html string with
#   a schema of its own and no reference to TaskID.
# Behaviour: the generated docs() returns TaskID. The generator gives a string without a name the name of the first
#   component that is one; it compiles, and the editor shows a page as an id.
# Seen: with the component: this.request<TaskID, any>
# Seen: without: this.request<string, any>
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

npm init -y >/dev/null
npm install --loglevel=error --no-audit --no-fund --ignore-scripts \
  swagger-typescript-api@13.1.3 \
  >npm.log 2>&1 || { cat npm.log >&2; exit 2; }
# request COMPONENTS: how the generated client asks for the page.
request() {
  cat >document.json <<END
{"openapi": "3.1.0", "info": {"title": "Tasks", "version": "1"},
 "paths": {"/docs": {"get": {"operationId": "docs", "responses": {"200": {"description": "a page",
   "content": {"text/html": {"schema": {"type": "string", "minLength": 1}}}}}}}},
 "components": {"schemas": $1}}
END
  node_modules/.bin/swagger-typescript-api generate --path document.json --output . --name client.ts \
    >generator.log 2>&1 ||
    { cat generator.log >&2; exit 2; }
  grep -oE 'this\.request<.*>' client.ts
}
seen="with the component: $(request '{"TaskID": {"type": "string", "description": "The id of a task."}}')
without: $(request '{}')"
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
