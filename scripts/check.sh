#!/usr/bin/env bash
# What can be said about the code without running it: format, vet, linter, tidy modules.
# With "tree": is everything committed, and did the tests leave nothing behind?
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = tree ]; then
  left=$(git status --porcelain)
  [ -z "$left" ] || { printf 'the tree is not clean:\n%s\n' "$left" >&2; exit 1; }
  exit 0
fi

unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { printf 'gofmt would change:\n%s\n' "$unformatted" >&2; exit 1; }

# The tests against real Filebeat stand behind a build tag; they are code like any other.
go vet ./...
go vet -tags real ./internal/e2e
go tool -modfile=internal/tools/go.mod staticcheck -tags real ./...

for module in . internal/tools internal/e2e/filebeat; do
  (cd "$module" && go mod tidy -diff) || { echo "$module/go.mod or go.sum is not tidy (see above)" >&2; exit 1; }
done
