#!/usr/bin/env bash
# Runs every fuzz target, one after the other, for the given time each, and prints executions and corpus size.
# Exit status 1 when one found something; the input that did it then lies in the package's testdata/fuzz and becomes a seed.
set -euo pipefail
cd "$(dirname "$0")/.."
fuzztime=${1:-1m}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

count() { [ -d "$1" ] && find "$1" -type f | wc -l || echo 0; }
module=$(go list -m)
cache=$(go env GOCACHE)/fuzz
targets=0 found=0

printf '%-24s %-28s %12s %8s %8s\n' package target executions seeds corpus
for package in $(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...); do
  dir=$(go list -f '{{.Dir}}' "$package")
  grep -qs '^func Fuzz' "$dir"/*_test.go || continue
  for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz'); do
    targets=$((targets + 1)) verdict=
    before=$(count "$cache/$package/$target")
    if ! go test -run '^$' -fuzz "^$target\$" -fuzztime "$fuzztime" -timeout 0 "$package" >"$log" 2>&1; then
      found=$((found + 1)) verdict=FAILED
    fi
    # "fuzz: elapsed: 3s, execs: 123 (41/sec), new interesting: 4 (total: 44)"
    execs=$(sed -n 's/.*execs: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    # The baseline is what f.Add and testdata hold, and what earlier runs left in the cache.
    baseline=$(sed -n 's/.*gathering baseline coverage: [0-9]*\/\([0-9]*\) completed.*/\1/p' "$log" | tail -n 1)
    seeds=$((${baseline:-before} - before))
    printf '%-24s %-28s %12s %8s %8s %s\n' "${package#"$module"/}" "$target" "${execs:-0}" "$seeds" "$((seeds + $(count "$cache/$package/$target")))" "$verdict"
    [ -z "$verdict" ] || sed 's/^/    /' "$log" >&2
  done
done
echo "$targets targets, $found with findings"
[ "$found" = 0 ]
