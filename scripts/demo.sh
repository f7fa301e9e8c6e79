#!/usr/bin/env bash
# The main job before your eyes, with nothing but Go: see make demo in README.md. Everything is on loopback and ends by itself.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=.cache/demo
pids=()

finish() {
  local status=$?
  trap - EXIT INT TERM
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait "${pids[@]}" 2>/dev/null || true
  [ $status = 0 ] || echo "The demonstration did not work out. What the programs said: $dir/*.log" >&2
  exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM

# started NAME COMMAND…: runs it in the background and sets $address to where it listens.
started() {
  local log=$dir/$1.log
  shift
  : >"$log"
  "$@" 2>>"$log" &
  pids+=($!)
  for _ in {1..200}; do
    address=$(sed -n 's/.*address=\([0-9.]*:[0-9]*\).*/\1/p;T;q' "$log")
    [ -z "$address" ] || return 0
    kill -0 $! 2>/dev/null || break
    sleep 0.05
  done
  cat "$log" >&2
  return 1
}

echo "1. Building vtsidecar and a stand-in for VirusTotal."
rm -rf "$dir" && mkdir -p "$dir" bin
make --no-print-directory -s build OUT=bin/vtsidecar
CGO_ENABLED=0 go build -trimpath -o bin/vtstandin ./internal/vtstandin/cmd/vtstandin
CGO_ENABLED=0 go build -trimpath -o bin/demo ./internal/demo

started virustotal bin/vtstandin -address 127.0.0.1:0 -table examples/demo/virustotal.json
virustotal=$address
echo "2. The stand-in VirusTotal answers on $virustotal, from examples/demo/virustotal.json."

# The limits are lifted because the stand-in is not VirusTotal; a public key has 4 look-ups a minute.
started vtsidecar bin/vtsidecar --input.address 127.0.0.1:0 --admin.address off --path.data "$dir/data" --output.file.path "$dir/events.ndjson" \
  --vt.url "http://$virustotal" --vt.api_key demo --vt.wait 10s --vt.limit.minute 0 --vt.limit.day 0 --vt.limit.month 0
echo "3. vtsidecar listens for Beats on $address."

echo "4. Sending what Filebeat and Winlogbeat would send (examples/events), and waiting for the acks:"
bin/vtsidecar send --to "$address" examples/events/*.ndjson 2>&1 | sed 's/^/   /'
echo "   An ack means: on disk, enriched."
echo

bin/demo <"$dir/events.ndjson" >"$dir/shown.txt"
[ -s "$dir/shown.txt" ] || { echo "No event came out malicious; one should have." >&2; exit 1; }
cat "$dir/shown.txt"

cat <<END

All events, one a line:   $dir/events.ndjson
What vtsidecar said:      $dir/vtsidecar.log
What it added, explained: README.md, "The words of a verdict"
Next: point a real Beat at it, with a key (README.md, "Set it up with a key").
END
