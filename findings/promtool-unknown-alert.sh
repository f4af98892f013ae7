#!/usr/bin/env bash
# Package: prometheus 2.42.0+ds-5+deb12u1 (Debian 12)
# Input: a rule TaskAPIDown, and a unit test that expects no alert for TaskApiDown, at a time when the rule fires.
# Behaviour: promtool test rules does not ask whether a rule of that name exists: no alert was expected, none of that
#   name was found, SUCCESS. So each "does not fire when all is well" goes on passing after its alert was renamed, or
#   lost.
# Seen: TaskApiDown: SUCCESS, status 0
# Seen: TaskAPIDown: FAILED, status 1
# Date: 2026-11-30
set -euo pipefail
expected=$(sed -n 's/^# Seen: //p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get download -qq -o APT::Sandbox::User=root \
  prometheus=2.42.0+ds-5+deb12u1 \
  >apt.log 2>&1 || { cat apt.log >&2; exit 2; }
for deb in *.deb; do dpkg -x "$deb" root; done
cat >rules.yml <<'END'
groups:
- name: tasks
  rules:
  - alert: TaskAPIDown
    expr: up == 0
    for: 1m
END
cat >test.yml <<'END'
rule_files: [rules.yml]
tests:
- interval: 1m
  input_series:
  - {series: 'up{job="tasks"}', values: '0x10'}
  alert_rule_test:
  - {eval_time: 5m, alertname: NAME, exp_alerts: []}
END

seen=$(
  for name in TaskApiDown TaskAPIDown; do
    sed "s/NAME/$name/" test.yml >"$name.yml"
    status=0
    root/usr/bin/promtool test rules "$name.yml" >out 2>&1 || status=$?
    echo "$name: $(grep -oE 'SUCCESS|FAILED' out | head -n 1), status $status"
  done
)
echo "$seen"
[ "$seen" = "$expected" ] || { echo 'CHANGED: not what the header says' >&2; exit 1; }
