#!/usr/bin/env bash
# Makes one mistake at a time in a copy of the tree and demands that torture finds it, in the row that is about it: a check that
# never fails proves nothing. An edit that does not apply any more is an error: bring it up to date here.
# Arguments are the names of the defects to try; none: all.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
wanted=("$@")
tried=0 missed=0

# torture ROW BINARY: tries one row of the table up to its first failure; everything it says goes to $dir/said, at the end
# whether it passed.
torture() {
  "$dir/torture" -first -rows "$1" -vtsidecar "$2" >"$dir/said" 2>&1
  [ "$(tail -n 1 "$dir/said")" = "torture: passed" ]
}

# edit FILE OLD NEW: replaces a text that stands there exactly once.
edit() {
  local content before
  content=$(cat "$1"; printf .)
  before=${content/"$2"/}
  [ "$content" != "$before" ] || { echo "$1 does not hold \"$2\" any more: see scripts/defects.sh" >&2; return 1; }
  [ "$before" = "${before/"$2"/}" ] || { echo "$1 holds \"$2\" more than once: see scripts/defects.sh" >&2; return 1; }
  content=${content/"$2"/"$3"}
  printf %s "${content%.}" >"$1"
}

# defect NAME ROW FILE OLD NEW
defect() {
  local name=$1 row=$2
  shift 2
  [ ${#wanted[@]} = 0 ] || [[ " ${wanted[*]} " = *" $name "* ]] || return 0
  tried=$((tried + 1))
  rm -rf "$dir/tree" && mkdir "$dir/tree"
  git ls-files -co --exclude-standard -z | while IFS= read -r -d '' f; do [ ! -e "$f" ] || printf '%s\0' "$f"; done |
    tar -cf - --null -T - | tar -xf - -C "$dir/tree"
  (cd "$dir/tree" && edit "$@" && CGO_ENABLED=0 go build -trimpath -o "$dir/broken" .)
  if torture "$row" "$dir/broken"; then
    echo "$name: NOT FOUND: row $row passed"
  elif ! grep -E "^ *$row +FAILED" "$dir/said" | cut -c -150 | sed "s/^/$name: found: /;q" | grep .; then
    echo "$name: NOT FOUND: torture failed, but not in row $row:"
    tail -n 5 "$dir/said"
  else
    return 0
  fi
  missed=$((missed + 1))
}

CGO_ENABLED=0 go build -trimpath -o "$dir/torture" ./internal/torture
CGO_ENABLED=0 go build -trimpath -o "$dir/sound" .
torture 2,4,19,20 "$dir/sound" || { echo "these rows fail without any defect:"; cat "$dir/said"; exit 1; } >&2

defect no-window-cap 2 lumber/window.go 'int64(h.n) > int64(max)' 'int64(h.n) > int64(max)<<20'
defect no-event-cap 4 lumber/window.go 'length == 0 || length > c.s.cfg.MaxEvent' 'length == 0 || length > maxWireEvent'
defect no-connection-cap 20 lumber/server.go 'all, each := s.cfg.MaxConnections, s.cfg.MaxPerAddress' 'all, each := 0, s.cfg.MaxPerAddress'
defect ack-before-stored 19 lumber/ack.go $'if w.failed || w.pending > 0 {\n\t\t\t\tbreak' $'if w.failed {\n\t\t\t\tbreak'
defect keepalive-stopped 19 lumber/ack.go 'due := c.s.cfg.Keepalive' 'due := time.Hour + c.s.cfg.Keepalive'

echo "$tried defects, $((tried - missed)) found"
[ "$missed" = 0 ]
