#!/usr/bin/env bash
# Package: ajv 8.20.0 (npm)
# Package: ajv-formats 3.0.1 (npm)
# Package: zod 4.6.7 (npm)
# Input: five texts, checked as format "date-time" by ajv and as z.iso.datetime() by zod. RFC 3339 5.6 has the first
#   two.
# Behaviour: an API whose server checks with the one and whose client checks with the other disagrees about three of
#   them. ajv takes offsets without a colon and without minutes, which RFC 3339 does not have; zod refuses every
#   offset but Z, also the usual form of a time outside of UTC, unless it is told {offset: true}.
# Seen: 2026-11-30T10:30:00Z ajv true zod true
# Seen: 2026-11-30T10:30:00+09:00 ajv true zod false
# Seen: 2026-11-30T10:30:00+0900 ajv true zod false
# Seen: 2026-11-30T10:30:00+09 ajv true zod false
# Seen: 2026-11-30T10:30:00 ajv false zod false
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

npm init -y >/dev/null
npm install --loglevel=error --no-audit --no-fund --ignore-scripts \
  ajv@8.20.0 ajv-formats@3.0.1 zod@4.6.7 \
  >npm.log 2>&1 || { cat npm.log >&2; exit 2; }
cat >finding.js <<'END'
const Ajv = require('ajv/dist/2020')
const {z} = require('zod')

const ajv = new Ajv()
require('ajv-formats')(ajv)
const dateTime = ajv.compile({type: 'string', format: 'date-time'})
for (const end of ['Z', '+09:00', '+0900', '+09', '']) {
  const text = `2026-11-30T10:30:00${end}`
  console.log(`${text} ajv ${dateTime(text)} zod ${z.iso.datetime().safeParse(text).success}`)
}
END

seen=$(node finding.js)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
