# What a machine is and has, as lines of `key value`. Arguments: the TCP ports to look at.
# Only sh and what every Debian has: it must work where Python is missing.
. /etc/os-release 2>/dev/null
echo "time $(date +%s)"
echo "os ${ID:-unknown} ${VERSION_ID:-0}"
echo "name ${PRETTY_NAME:-an unknown system}"
echo "arch $(uname -m)"
echo "uid $(id -u)"
echo "python $(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)"
echo "init $(cat /proc/1/comm 2>/dev/null)"
echo "memory_kb $(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo)"
for folder in / /var /var/lib /var/lib/coordd; do
    [ -d "$folder" ] && echo "free_kb $(df -Pk "$folder" | tail -1 | tr -s ' ' | cut -d ' ' -f 4) $folder"
done
echo "synchronized $(timedatectl show -p NTPSynchronized --value 2>/dev/null)"
getent hosts localhost >/dev/null 2>&1 && echo "resolves localhost"
getent ahosts "$(hostname)" >/dev/null 2>&1 && echo "resolves itself"
for port in "$@"; do
    pids=$(ss -Hltnp "sport = :$port" 2>/dev/null | grep -o 'pid=[0-9]*' | cut -d = -f 2 | sort -u)
    for pid in $pids; do
        unit=$(grep -o '[^/]*\.service' "/proc/$pid/cgroup" 2>/dev/null | tail -1)
        echo "port $port $(tr -d ' ' <"/proc/$pid/comm") ${unit:--}"
    done
done
