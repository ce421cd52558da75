#!/usr/bin/env bash
# Two Ray nodes on this machine, on the loopback, with a token: a cluster for trying.
#
#     source <(clusters/local-two-nodes.sh start)       # sets RAY_ADDRESS, RAY_API_SERVER_ADDRESS and the token
#     strata doctor
#     strata submit pretrain demo --output /tmp/first scaling.workers=2
#     clusters/local-two-nodes.sh kill-second           # as if a machine were lost; `add-second` brings it back
#     clusters/local-two-nodes.sh stop
#
# CPUS=4 gives each node so many CPUs (default: half of this machine's). Another Ray on this machine is left alone.
set -euo pipefail

folder=${STRATA_TWO_NODES:-/tmp/strata-two-nodes}
port=${PORT:-6399}
dashboard=${DASHBOARD_PORT:-8299}
cpus=${CPUS:-$((($(nproc) + 1) / 2))}

token() {
    mkdir -p "$folder" && chmod 700 "$folder"
    [ -s "$folder/token" ] || (umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$folder/token")
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token
}

# A node of Ray in the background; its log and its process id are kept in the folder.
node() {
    local name=$1
    shift
    RAY_worker_niceness=0 setsid ray start "$@" --num-cpus "$cpus" --min-worker-port 0 --max-worker-port 0 \
        --dashboard-agent-listen-port 0 --disable-usage-stats --block > "$folder/$name.log" 2>&1 &
    echo $! > "$folder/$name.pid"
}

first() {
    # Then its address is the loopback's, and it listens there alone.
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 node first --head --port "$port" --dashboard-port "$dashboard" \
        --dashboard-host 127.0.0.1 --temp-dir "$folder/ray/first" --node-name first
}

second() {
    # Written so, Ray does not replace the loopback's address by another one of this machine.
    unset RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER
    # In a folder of its own, for a job's files are unpacked anew by each node.
    node second --address "LOCALHOST:$port" --node-name second --include-log-monitor False \
        --temp-dir "$folder/ray/second"
}

wait_for() {
    local wanted=$1
    for _ in $(seq 120); do
        if RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 ray status --address "127.0.0.1:$port" 2>/dev/null |
            grep -c '^ 1 node_' | grep -qx "$wanted"; then
            return
        fi
        sleep 1
    done
    echo "no cluster of $wanted node(s) after two minutes; $folder/*.log say why" >&2
    exit 1
}

end() {
    local file=$folder/$1.pid
    [ -s "$file" ] || return 0
    kill -"$2" -- -"$(cat "$file")" 2>/dev/null || true
    rm -f "$file"
}

case ${1:-} in
    start)
        [ ! -s "$folder/first.pid" ] || { echo "it runs already; stop it with: $0 stop" >&2; exit 1; }
        token
        first
        wait_for 1
        second
        wait_for 2
        echo "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token RAY_ADDRESS=127.0.0.1:$port" \
            "RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0"
        ;;
    kill-second) end second KILL ;;
    add-second)
        token
        second
        wait_for 2
        ;;
    stop)
        end second TERM
        end first TERM
        sleep 3
        pkill -KILL -f -- "$folder/ray/" || true # what waits for its node to be drained
        rm -rf "$folder"
        ;;
    *)
        sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
esac
