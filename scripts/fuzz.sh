#!/usr/bin/env bash
# Runs every fuzz target, one after the other, for the given time each, and prints executions and corpus size.
# Exit status 1 when one found something; the input that did it then lies in the package's testdata/fuzz and becomes a seed.
set -euo pipefail
cd "$(dirname "$0")/.."
fuzztime=${1:-1m}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

count() { find "$1" -type f 2>/dev/null | wc -l; }
module=$(go list -m)
cache=$(go env GOCACHE)/fuzz
targets=0 found=0

printf '%-36s %-28s %12s %8s %8s\n' package target executions seeds corpus
for package in $(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...); do
  dir=$(go list -f '{{.Dir}}' "$package")
  grep -qs '^func Fuzz' "$dir"/*_test.go || continue
  for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz'); do
    targets=$((targets + 1)) verdict=
    if ! go test -run '^$' -fuzz "^$target\$" -fuzztime "$fuzztime" -timeout 0 "$package" >"$log" 2>&1; then
      found=$((found + 1)) verdict=FOUND
    fi
    # "fuzz: elapsed: 3s, execs: 123 (41/sec), new interesting: 4 (total: 44)"
    execs=$(sed -n 's/.*execs: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    # What stands in the code as f.Add, and what lies in testdata, are the seeds; the cache holds what fuzzing added.
    seeds=$(sed -n 's/.*gathering baseline coverage: [0-9]*\/\([0-9]*\) completed.*/\1/p' "$log" | tail -n 1)
    cached=$(count "$cache/$package/$target")
    printf '%-36s %-28s %12s %8s %8s %s\n' "${package#"$module"/}" "$target" "${execs:-0}" "$(( ${seeds:-cached} > cached ? seeds - cached : ${seeds:-0} ))" "$cached" "$verdict"
    [ -z "$verdict" ] || sed 's/^/    /' "$log" >&2
  done
done
echo "$targets targets, $found with findings"
[ "$found" = 0 ]
