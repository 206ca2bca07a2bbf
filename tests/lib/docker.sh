# Makes sure a Docker Engine answers. Source this file; it runs nothing by itself.
#
#   ensure_docker LOG_DIR   returns 0 when `docker info` answers, starting an engine if it may.
#                           Otherwise returns 1 with the reason in $DOCKER_UNAVAILABLE.
#
# An engine that already answers (DOCKER_HOST and contexts included) is used as it is and never touched.
# An engine is only installed or started by root, for the machine (a CI worker), and is left running.
# shellcheck shell=bash

# How long a freshly started engine may take before we give up, in seconds.
: "${DOCKER_START_TIMEOUT:=90}"

DOCKER_UNAVAILABLE=""

docker_answers() {
    command -v docker >/dev/null 2>&1 && timeout 15 docker info >/dev/null 2>&1
}

ensure_docker() {
    local log_dir=$1
    DOCKER_UNAVAILABLE=""
    docker_answers && return 0
    if [ -n "${DOCKER_HOST:-}" ]; then
        DOCKER_UNAVAILABLE="DOCKER_HOST is set, but no engine answers there"
        return 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        DOCKER_UNAVAILABLE="no Docker Engine answers, and only root can install or start one"
        return 1
    fi
    install_docker || return 1
    mount_cgroups
    start_dockerd "$log_dir"
}

# Installs the engine, and the client where the distribution packs it apart.
install_docker() {
    local missing=()
    command -v dockerd >/dev/null 2>&1 || missing+=(docker.io)
    command -v iptables >/dev/null 2>&1 || missing+=(iptables)
    if ! command -v docker >/dev/null 2>&1 && apt-cache show docker-cli >/dev/null 2>&1; then
        missing+=(docker-cli)
    fi
    [ ${#missing[@]} -eq 0 ] && return 0
    if ! apt_install "${missing[@]}"; then
        DOCKER_UNAVAILABLE="could not install ${missing[*]} with apt-get"
        return 1
    fi
}

# apt_install PACKAGE...: installs Debian packages without starting their services.
apt_install() {
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "apt-get is not on this machine; install by hand: $*" >&2
        return 1
    fi
    local policy=/usr/sbin/policy-rc.d ours=no status=0
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && ours=yes
    fi
    apt_get install -y --no-install-recommends "$@" >&2 ||
        { apt_get update >&2 && apt_get install -y --no-install-recommends "$@" >&2; } || status=$?
    [ "$ours" = no ] || rm -f "$policy"
    return "$status"
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120 "$@"
}

# A bare VM or container may come up without cgroup mounts, and the engine does not start without them.
# Where something is mounted already, version 1 or 2, nothing is changed.
mount_cgroups() {
    local root=/sys/fs/cgroup controller
    if [ -e "$root/cgroup.controllers" ] || [ -d "$root/memory" ]; then
        return 0
    fi
    if grep -qw cgroup2 /proc/filesystems && mount -t cgroup2 none "$root" 2>/dev/null; then
        # Version 2 is of use only when the controllers are not held by version 1.
        if grep -qw memory "$root/cgroup.controllers"; then
            return 0
        fi
        umount "$root"
    fi
    mount -t tmpfs -o mode=755 tmpfs "$root" || return 0
    while read -r controller; do
        mkdir -p "$root/$controller"
        mount -t cgroup -o "$controller" none "$root/$controller" 2>/dev/null || rmdir "$root/$controller"
    done < <(awk '!/^#/ && $4 == 1 { print $1 }' /proc/cgroups)
}

# Starts `dockerd` in a session of its own, so that it outlives the script, and waits until it answers.
start_dockerd() {
    local log_dir=$1 log pid deadline
    mkdir -p "$log_dir"
    log="$log_dir/dockerd.log"
    # An engine that another script is starting at this moment is waited for, not started twice.
    if ! dockerd_is_running; then
        # What a killed engine left behind would make the next one refuse to start.
        rm -f /var/run/docker.pid
        DOCKER_RAMDISK=${DOCKER_RAMDISK:-$(docker_ramdisk)} setsid nohup dockerd \
            >"$log" 2>&1 </dev/null &
        pid=$!
        disown "$pid" 2>/dev/null || true
    fi
    deadline=$((SECONDS + DOCKER_START_TIMEOUT))
    while [ "$SECONDS" -lt "$deadline" ]; do
        docker_answers && return 0
        # One that gave up will not answer any more, unless it gave way to one that started at the same time.
        if [ -n "${pid:-}" ] && ! kill -0 "$pid" 2>/dev/null && ! dockerd_is_running; then
            break
        fi
        sleep 0.2
    done
    # Read by whoever sourced this file.
    # shellcheck disable=SC2034
    DOCKER_UNAVAILABLE="dockerd does not answer; the end of $log: $(grep -v '^$' "$log" 2>/dev/null | tail -n 1 | cut -c1-300)"
    return 1
}

# Whether the machine's own engine runs, as its pid file says; engines that tests start elsewhere do not count.
dockerd_is_running() {
    local pid
    pid=$(cat /var/run/docker.pid 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]
}

# The engine's own switch for machines whose root is a ramdisk, where `pivot_root` does not work.
docker_ramdisk() {
    case "$(stat -fc %T / 2>/dev/null)" in
        tmpfs | ramfs | rootfs) echo true ;;
        *) echo "" ;;
    esac
}
