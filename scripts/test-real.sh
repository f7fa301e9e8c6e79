#!/usr/bin/env bash
# Real Filebeat and other senders against the real binary, and the binary against real Elasticsearch and OpenSearch. Builds what there is to build and
# the stand-in VirusTotal, gets strace and what search-node.sh needs where it is missing, and runs the tests behind the build tag "real". Filebeat is
# built once for each state of its go.sum and version of Go: a minute or two.
# Arguments go to go test: scripts/test-real.sh -run TestKilled -v
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

if ! command -v strace >/dev/null; then
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "strace is needed: install it (Debian: apt-get install strace)" >&2; exit 1; }
  apt-get install -qq -y strace >/dev/null || { apt-get update -qq && apt-get install -qq -y strace >/dev/null; }
fi

key=$(cat internal/e2e/filebeat/{go.mod,go.sum,main.go} <(go env GOVERSION GOOS GOARCH) | sha256sum | cut -c1-16)
filebeat=$root/.cache/filebeat-$key
if [ ! -x "$filebeat" ]; then
  echo "building Filebeat (once; about 1 GB of module cache)"
  mkdir -p .cache && rm -f .cache/filebeat-*
  (cd internal/e2e/filebeat && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$filebeat.part" .)
  mv "$filebeat.part" "$filebeat" # whole, or not there
fi

for kind in es os; do
  scripts/search-node.sh fetch $kind # once, and not within a test's time
done

make --no-print-directory -s build OUT=bin/vtsidecar
CGO_ENABLED=0 go build -trimpath -o bin/vtstandin ./internal/vtstandin/cmd/vtstandin

# Many of the tests wait for a Beat's pauses most of the time, so more of them than there are cores run side by side.
VTSIDECAR=$root/bin/vtsidecar VTSTANDIN=$root/bin/vtstandin FILEBEAT=$filebeat SEARCH_NODE=$root/scripts/search-node.sh \
  go test -tags real -count 1 -timeout 30m -parallel 4 "$@" ./internal/e2e
