#!/bin/sh
# Installs what the tests need beside Python packages: real servers, a browser, Node.
# Where it cannot (no apt-get, not root), the tests that need a missing tool say so and are
# skipped; under CI=true they fail instead.
set -u
missing=
need() { # COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need nginx nginx-light
need redis-server redis-server
need chromium chromium
need node nodejs
need npm npm
need slowhttptest slowhttptest
need openssl openssl
need curl curl
need uwsgi "uwsgi-core uwsgi-plugin-python3"
need cc gcc
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends $missing >/dev/null && exit 0
    echo "could not install all of:$missing" >&2
fi
echo "not installed:$missing; the tests that need them will be skipped" >&2
exit 0
