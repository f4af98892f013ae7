# check.sh itself: what its exit status says, on a program and parts made for it.
self=$work/self
mkdir -p "$self/deploy/check.d"
cp "$deploy/check.sh" "$self/deploy/"
echo 'module self' >"$self/go.mod"
echo 'package main; func main() {}' >"$self/main.go"

# part NAME: its text is standard input.
part() { cat >"$self/deploy/check.d/10-$1.sh"; }
part good <<<'check "true" true'
part bad <<<'check "true" true; check "false" false; check "true" true'
part skipped <<<'skip "all of it" "there is no such machine"'
part broken <<<'check "true" true; exit 0'
part wrong <<<'check "true" true; if'
part waits <<'END'
background child sleep 60
cp "$work/child.pid" "$repo/waiting"
sleep 60
END

# ends STATUS LAST PART…: these parts end with STATUS, and LAST, an extended regular expression, is the last line.
ends() {
  local status=0 said
  said=$("$self/deploy/check.sh" "${@:3}" 2>&1) || status=$?
  echo "$said"
  echo "exit status $status"
  [ $status -eq "$1" ] && tail -n 1 <<<"$said" | grep -qxE "$2"
}

# terminated: SIGTERM in the middle of a part ends it, and what the part has started.
terminated() {
  local status=0
  background checked "$self/deploy/check.sh" waits
  until_true 30 test -s "$self/waiting" || return
  kill -TERM -- "-$(cat "$work/checked.pid")"
  wait "$(cat "$work/checked.pid")" || status=$?
  rm "$work/checked.pid"
  cat "$work/checked.log"
  echo "exit status $status"
  [ $status -eq 130 ] && ! grep -q sleep "/proc/$(cat "$self/waiting")/cmdline"
}

check "check.sh: all is well: 0" ends 0 '2 passed, 0 failed' good
check "check.sh: one check of three has failed: 1" ends 1 '3 passed, 1 failed' bad
check "check.sh: a part that has failed is not forgotten for one that has not: 1" ends 1 '4 passed, 1 failed' bad good
check "check.sh: a part that skips everything: 1" ends 1 '1 passed, 1 failed' skipped
check "check.sh: the same beside one that passes: 1" ends 1 '2 passed, 1 failed' good skipped
check "check.sh: a part that breaks off: 1" ends 1 '2 passed, 1 failed' broken
check "check.sh: a part that is no shell: 1" ends 1 '1 passed, 2 failed' wrong
check "check.sh: a part that there is not, beside one that there is: 2" ends 2 'check.sh: there is no part nosuchpart' good nosuchpart
check "check.sh: SIGTERM: 130" terminated
echo 'package main; func main() { undefined() }' >"$self/main.go"
check "check.sh: the service does not build: 1" ends 1 '0 passed, 1 failed' good
