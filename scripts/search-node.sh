#!/usr/bin/env bash
# A node of real Elasticsearch (es) or OpenSearch (os) on 127.0.0.1, unpacked from its Maven artefacts: no container.
#   scripts/search-node.sh fetch es|os                              get what a node is made of, and the tools; once
#   scripts/search-node.sh start es|os DIR PORT [-E setting=value …]  in DIR; a node that was there before has its data still
#   scripts/search-node.sh stop DIR
# Start returns when the node answers, and prints its URL. DIR must be reachable for the user nobody where this is run by
# root: both servers refuse to be root.
set -euo pipefail
cd "$(dirname "$0")/.."
parts=$PWD/internal/e2e/search
es_version=8.19.21 os_version=2.19.6

usage() { sed -n '2,7s/^# //p' "$0" >&2; exit 2; }

# tools installs what is missing of them.
tools() {
  local tool missing=()
  for tool in mvn:maven javac:openjdk-17-jdk-headless unzip:unzip curl:curl setpriv:util-linux; do
    command -v "${tool%%:*}" >/dev/null || missing+=("${tool#*:}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "install first: ${missing[*]}" >&2; exit 1; }
  apt-get install -qq -y "${missing[@]}" >/dev/null || { apt-get update -qq && apt-get install -qq -y "${missing[@]}" >/dev/null; }
}

# fetch KIND sets artefacts to the folder that has them. Another version of a POM has a folder of its own.
fetch() {
  tools
  local pom=$parts/pom-$1.xml
  [ -e "$pom" ] || usage
  artefacts=${XDG_CACHE_HOME:-$HOME/.cache}/vtsidecar/$1-$(sha256sum "$pom" | cut -c1-16)
  [ -d "$artefacts" ] && return
  echo "getting the $1 node (once; about 110 MB)" >&2
  rm -rf "$artefacts.part"
  mkdir -p "$artefacts.part"
  mvn -B -q org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies -f "$pom" -DoutputDirectory="$artefacts.part" >&2
  mv "$artefacts.part" "$artefacts" # whole, or not there
}

# describe writes what a plugin or module says of itself: describe FILE NAME CLASS KIND VERSION [EXTENDED]
describe() {
  cat >"$1" <<EOF
name=$2
description=$2
version=$5
classname=$3
java.version=17
$4.version=$5
extended.plugins=${6:-}
EOF
}

install_es() { # HOME
  local plugin=$1/plugins/missing-parts classes
  classes=$(mktemp -d)
  javac -nowarn -Xlint:none -cp "$1/lib/*" -d "$classes" "$parts/MissingParts.java"
  mkdir -p "$plugin"
  jar cf "$plugin/missing-parts.jar" -C "$classes" .
  rm -rf "$classes"
  describe "$plugin/plugin-descriptor.properties" missing-parts vtsidecar.e2e.MissingParts elasticsearch $es_version
  sed -i '/^extended/d' "$plugin/plugin-descriptor.properties"
  echo 'xpack.security.enabled: false' >>"$1/config/elasticsearch.yml"
}

install_os() { # HOME
  local modules=$1/modules
  mkdir -p "$modules"/{lang-painless,ingest-common}
  cp "$artefacts"/{lang-painless-,opensearch-scripting-painless-spi-,antlr4-runtime-,asm-}*.jar "$modules/lang-painless"
  cp "$artefacts"/{ingest-common-,opensearch-grok-,opensearch-dissect-,joni-,jcodings-}*.jar "$modules/ingest-common"
  describe "$modules/lang-painless/plugin-descriptor.properties" lang-painless org.opensearch.painless.PainlessPlugin opensearch $os_version
  describe "$modules/ingest-common/plugin-descriptor.properties" ingest-common org.opensearch.ingest.common.IngestCommonPlugin opensearch $os_version lang-painless
  cat >"$modules/lang-painless/plugin-security.policy" <<EOF
grant {
  permission java.lang.RuntimePermission "createClassLoader";
  permission java.lang.RuntimePermission "getClassLoader";
};
EOF
}

# unpack KIND DIR makes a node that has no data yet.
unpack() {
  local name=elasticsearch version=$es_version home=$2/home
  [ "$1" = es ] || name=opensearch version=$os_version
  fetch "$1"
  rm -rf "$2/unpacked" && mkdir -p "$2/unpacked"
  unzip -q "$artefacts/$name-$version.zip" -d "$2/unpacked"
  mv "$2"/unpacked/* "$2/unpacked/home"
  # A full disk must not turn indices read-only: that is the tests' to do.
  cat >"$2/unpacked/home/config/$name.yml" <<EOF
cluster.name: vtsidecar-e2e
node.name: only
discovery.type: single-node
network.host: 127.0.0.1
cluster.routing.allocation.disk.threshold_enabled: false
EOF
  "install_$1" "$2/unpacked/home"
  mv "$2/unpacked/home" "$home" # whole, or not there
  rmdir "$2/unpacked"
}

start() { # KIND DIR PORT ARGUMENTS…
  local kind=$1 dir=$2 port=$3 name=elasticsearch
  shift 3
  case $kind in es) ;; os) name=opensearch ;; *) usage ;; esac
  mkdir -p "$dir"
  [ -d "$dir/home" ] || unpack "$kind" "$dir"
  local as=()
  if [ "$(id -u)" = 0 ]; then
    chown -R nobody: "$dir"
    as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
  fi
  local java options='-Xms128m -Xmx512m -XX:-AlwaysPreTouch -XX:TieredStopAtLevel=1 -XX:-UseG1GC -XX:+UseSerialGC'
  java=$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")
  HOME=$dir ES_JAVA_HOME=$java OPENSEARCH_JAVA_HOME=$java ES_JAVA_OPTS=$options OPENSEARCH_JAVA_OPTS=$options \
    "${as[@]}" "$dir/home/bin/$name" -E "http.port=$port" "$@" >"$dir/log" 2>&1 </dev/null &
  local pid=$!
  echo $pid >"$dir/pid"
  for _ in $(seq 480); do
    if curl -sf -o /dev/null "http://127.0.0.1:$port/_cluster/health"; then
      echo "http://127.0.0.1:$port"
      return
    fi
    kill -0 $pid 2>/dev/null || break
    sleep 0.25
  done
  tail -30 "$dir/log" >&2
  echo "the node does not answer" >&2
  exit 1
}

stop() { # DIR
  local pid
  pid=$(cat "$1/pid" 2>/dev/null) || return 0
  kill "$pid" 2>/dev/null || return 0
  for _ in $(seq 150); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.2
  done
  kill -9 "$pid"
}

case ${1:-}:$# in
  fetch:2) fetch "$2" ;;
  stop:2) stop "$2" ;;
  start:[0-3] | start: | :*) usage ;;
  start:*) shift && start "$@" ;;
  *) usage ;;
esac
