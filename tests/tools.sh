#!/bin/sh
# Installs what the tests need beside Python packages: real servers, a browser, Node.
# Where it cannot (no apt-get, not root) it says what is missing; the tests that need it are
# skipped.  Under CI=true nothing may go untested, so there it fails.
set -u
missing=
look() {
    missing=
    while read -r command packages; do
        command -v "$command" >/dev/null 2>&1 || missing="$missing $packages"
    done <<END
nginx nginx-light
haproxy haproxy
caddy caddy
apache2 apache2-bin libapache2-mod-wsgi-py3
redis-server redis-server
chromium chromium
node nodejs
npm npm
slowhttptest slowhttptest
openssl openssl
curl curl
uwsgi uwsgi-core uwsgi-plugin-python3
cc gcc
prometheus prometheus
systemd-analyze systemd
END
}
look
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null
    # Without starting them: the tests run their own, on ports of their own.
    for package in $missing; do
        RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "$package" >/dev/null ||
            echo "could not install $package" >&2
    done
    look
    [ -z "$missing" ] && exit 0
fi
echo "not installed:$missing" >&2
if [ "${CI:-}" = true ]; then
    exit 1
fi
echo "the tests that need them will be skipped" >&2
