# shellcheck shell=sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Before a test's script in the initrd that looks at bootseal.service while it waits.

# until_says PATTERN: wait until the status text matches, a minute at most.
until_says() {
    left=120
    # shellcheck disable=SC2254  # a pattern
    until case $(systemctl show -P StatusText bootseal.service) in $1) ;; *) false ;; esac do
        left=$((left - 1))
        test "$left" -gt 0
        sleep 0.5
    done
}

# uptime: seconds since the start.
uptime() {
    read -r seconds rest </proc/uptime
    echo "$seconds"
}
