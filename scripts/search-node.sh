#!/usr/bin/env bash
# A node of real Elasticsearch (es) or OpenSearch (os) on 127.0.0.1, unpacked from its Maven artefacts: no container.
#   scripts/search-node.sh fetch es|os                              get what a node is made of, and the tools; once
#   scripts/search-node.sh start es|os DIR PORT [-E setting=value …]  in DIR; a node that was there before has its data still
#   scripts/search-node.sh stop DIR
# Start returns when the node answers, and prints its URL. With LEASH=1 the node ends when start's standard input does: a
# pipe that a test holds is closed however the test ends. DIR must be reachable for the user nobody where this is run by
# root: both servers refuse to be root.
# SECURE=1 makes a new node one that speaks only TLS, to users with a password (Elasticsearch: or an API key). DIR/ca.crt is
# its authority, and admin with the password swordfish-of-tests may do everything. What it was made, it stays.
set -euo pipefail
cd "$(dirname "$0")/.."
parts=$PWD/internal/e2e/search
es_version=8.19.21 os_version=2.19.6
security_version=2.19.4.0 # of OpenSearch's plugin: there is none for each version of the server
password=swordfish-of-tests
hash='$2a$04$oNcmj9yNZyC25wg.UluFPeX26cRUFVXjTIXsklqSpeSJ9JKa7.vii' # of it: bcrypt, at the least cost

usage() { sed -n '2,10s/^# //p' "$0" >&2; exit 2; }

# tools installs what is missing of them.
tools() {
  local tool missing=()
  for tool in mvn:maven javac:openjdk-17-jdk-headless unzip:unzip curl:curl openssl:openssl setpriv:util-linux; do
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
  local size=107
  [ "$1" = es ] || size=142
  echo "getting the $1 node (once; about $size MB)" >&2
  local part=$artefacts.part-$$ # another may be getting it too
  mkdir -p "$part"
  mvn -B -q org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies -f "$pom" -DoutputDirectory="$part" >&2
  mv -T "$part" "$artefacts" 2>/dev/null || rm -rf "$part" # whole, or not there; the other was first
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
  if [ -z "${SECURE:-}" ]; then
    echo 'xpack.security.enabled: false' >>"$1/config/elasticsearch.yml"
    return
  fi
  cat >>"$1/config/elasticsearch.yml" <<EOF
xpack.security.enabled: true
xpack.security.autoconfiguration.enabled: false
xpack.security.authc.api_key.enabled: true
xpack.security.http.ssl: {enabled: true, certificate: certs/node.crt, key: certs/node.key}
EOF
  echo "admin:$hash" >"$1/config/users"
  echo 'superuser:admin' >"$1/config/users_roles"
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
  [ -n "${SECURE:-}" ] || return 0
  local plugin=$1/plugins/opensearch-security config=$1/config/opensearch-security
  mkdir -p "$plugin" "$config"
  unzip -q "$artefacts/opensearch-security-$security_version.zip" -d "$plugin"
  sed -i "s/^opensearch.version=.*/opensearch.version=$os_version/" "$plugin/plugin-descriptor.properties"
  cp "$plugin"/config/*.yml "$config"
  cat >"$config/internal_users.yml" <<EOF
_meta: {type: internalusers, config_version: 2}
admin: {hash: "$hash", backend_roles: [admin]}
EOF
  cat >>"$1/config/opensearch.yml" <<EOF
plugins.security.ssl.transport: {pemcert_filepath: certs/node.crt, pemkey_filepath: certs/node.key, pemtrustedcas_filepath: certs/ca.crt, enforce_hostname_verification: false}
plugins.security.ssl.http: {enabled: true, pemcert_filepath: certs/node.crt, pemkey_filepath: certs/node.key, pemtrustedcas_filepath: certs/ca.crt}
plugins.security.nodes_dn: [CN=localhost]
plugins.security.allow_default_init_securityindex: true
plugins.security.restapi.roles_enabled: [all_access]
plugins.security.audit.type: noop
EOF
}

# certify makes an authority, DIR/ca.crt, and has it sign a certificate for HOME. The node sends both.
certify() { # DIR HOME
  local certs=$2/config/certs
  mkdir -p "$certs"
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj '/CN=authority of the tests' -keyout "$certs/ca.key" -out "$certs/ca.crt" 2>/dev/null
  openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout "$certs/node.key" -out "$certs/node.csr" 2>/dev/null
  openssl x509 -req -in "$certs/node.csr" -CA "$certs/ca.crt" -CAkey "$certs/ca.key" -CAcreateserial -days 30 -out "$certs/node.crt" \
    -extfile <(echo 'subjectAltName=DNS:localhost,IP:127.0.0.1') 2>/dev/null
  cat "$certs/ca.crt" >>"$certs/node.crt"
  cp "$certs/ca.crt" "$1/ca.crt"
  rm "$certs/ca.key" "$certs/node.csr"
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
  [ -z "${SECURE:-}" ] || certify "$2" "$2/unpacked/home"
  "install_$1" "$2/unpacked/home"
  mv "$2/unpacked/home" "$home" # whole, or not there
  rmdir "$2/unpacked"
}

start() { # KIND DIR PORT ARGUMENTS…
  local kind=$1 dir=$2 port=$3 name=elasticsearch
  shift 3
  case $kind in es) ;; os) name=opensearch ;; *) usage ;; esac
  mkdir -p "$dir/tmp"
  [ -d "$dir/home" ] || unpack "$kind" "$dir"
  local as=()
  if [ "$(id -u)" = 0 ]; then
    chown -R nobody: "$dir"
    as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
  fi
  local java options='-Xms128m -Xmx512m -XX:-AlwaysPreTouch -XX:TieredStopAtLevel=1 -XX:-UseG1GC -XX:+UseSerialGC'
  java=$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")
  HOME=$dir TMPDIR=$dir/tmp CLI_JAVA_OPTS=-Djava.io.tmpdir=$dir/tmp OPENSEARCH_TMPDIR=$dir/tmp \
    ES_JAVA_HOME=$java OPENSEARCH_JAVA_HOME=$java ES_JAVA_OPTS=$options OPENSEARCH_JAVA_OPTS=$options \
    "${as[@]}" "$dir/home/bin/$name" -E "http.port=$port" "$@" >"$dir/log" 2>&1 </dev/null &
  local pid=$! url=http://127.0.0.1:$port with=()
  echo $pid >"$dir/pid"
  if [ -e "$dir/ca.crt" ]; then
    url=https://127.0.0.1:$port with=(--cacert "$dir/ca.crt" -u "admin:$password")
  fi
  if [ -n "${LEASH:-}" ]; then
    exec 3<&0
    { cat >/dev/null; kill $pid; } <&3 >/dev/null 2>&1 &
    exec 3<&-
  fi
  for _ in $(seq 480); do
    if curl -sf "${with[@]}" -o /dev/null "$url/_cluster/health"; then
      echo "$url"
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
