# shellcheck shell=sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# For scripts that define say(). need PACKAGE...: install missing packages with apt.
need() {
    missing=""
    for package; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing packages:$missing"
    if [ "$(id -u)" -eq 0 ]; then
        as_root="env"
    elif command -v sudo >/dev/null; then
        as_root="sudo env"
    else
        say "only root can install them: apt-get install --no-install-recommends$missing"
        exit 1
    fi
    # Package lists from before the last point release name removed versions. apt would then report that a
    # dependency "is not going to be installed".
    $as_root apt-get -q update >&2
    # shellcheck disable=SC2086
    $as_root DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $missing >&2
}
