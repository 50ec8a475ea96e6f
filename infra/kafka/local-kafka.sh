#!/usr/bin/env bash
# Runs a real Apache Kafka (KRaft) on loopback, without Docker, where Java 17 and Maven are. `--help` says how.
set -euo pipefail

usage() {
    cat <<EOF
Apache Kafka $VERSION on loopback, its jars from Maven; needs Java 17 or newer, and Maven for the first start.

    local-kafka.sh start [--dir DIR] [--port PORT] [--brokers N] [--secure]
    local-kafka.sh stop | kill | status | settings [--dir DIR]
    local-kafka.sh fetch | classpath

  start      starts the brokers of DIR that do not run, and prints the settings for Whiteboard. The first start lays DIR
             out as the options say; later ones find data and options there.
  stop       stops them, data is kept; --node K: only broker K. Nothing happens to what does not run.
  kill       the same with kill -9, as a power cut would
  status     one line a broker; fails unless all run
  settings   prints the settings again
  fetch      brings the jars into the cache ($LIBS), unless they are there
  classpath  prints the jars for \`java -cp\`

  --dir DIR    data, logs, pid files and credentials (default .whiteboard/kafka); may be deleted once stopped
  --port PORT  of the first broker (default 9092); N brokers with their controllers take PORT to PORT + 2N - 1
  --brokers N  1 (default) to 9; from 3 on topics are replicated 3 times and two replicas must acknowledge
  --secure     one listener for everybody, SASL_SSL with SCRAM-SHA-512; certificate and passwords are made anew
  --node K     which broker (stop, kill, start)

Examples
    infra/kafka/local-kafka.sh start && eval "\$(infra/kafka/local-kafka.sh settings)" && whiteboard up
    infra/kafka/local-kafka.sh start --dir /tmp/three --port 19092 --brokers 3
    infra/kafka/local-kafka.sh kill --dir /tmp/three --node 2      # and see what happens; \`start\` brings it back
    java -cp "\$(infra/kafka/local-kafka.sh classpath)" kafka.tools.StorageTool random-uuid

Environment: KAFKA_HEAP_OPTS (default $HEAP), XDG_CACHE_HOME, JAVA_HOME
EOF
}

fail() {
    echo "local-kafka.sh: $*" >&2
    exit 1
}

here=$(cd "$(dirname "$0")" && pwd)
VERSION=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$here/pom.xml")
LIBS=${XDG_CACHE_HOME:-$HOME/.cache}/whiteboard/kafka-$VERSION
HEAP=${KAFKA_HEAP_OPTS:--Xms96m -Xmx256m}
START_TIMEOUT_S=60
STOP_TIMEOUT_S=10
# The compiler's quick first level and the serial collector: half the time to start, and less memory. Word by word:
# shellcheck disable=SC2206
java=("${JAVA_HOME:+$JAVA_HOME/bin/}java" $HEAP -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$LIBS/*")

need_java() {
    local major
    major=$("${java[0]}" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p') || true
    [ -n "$major" ] || fail "no Java found; install Java 17 or newer, or set JAVA_HOME"
    [ "$major" -ge 17 ] || fail "Java $major found, Kafka $VERSION needs 17 or newer; set JAVA_HOME to one"
}

# Complete or not there: the jars are gathered beside the cache folder, and renamed to it in one step.
fetch() {
    [ -d "$LIBS" ] && return
    command -v mvn >/dev/null || fail "no Maven (mvn) found to fetch the jars of Kafka $VERSION, and they are not in $LIBS"
    mkdir -p "$(dirname "$LIBS")"
    local draft
    draft=$(mktemp -d "$LIBS.XXXXXX")
    if ! mvn --batch-mode --file "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$draft" \
        >"$draft/maven.log" 2>&1; then
        grep -m 1 ERROR "$draft/maven.log" | cut -c -300 >&2 || true
        rm -rf "$draft"
        fail "Maven could not fetch Kafka $VERSION; is its repository within reach?"
    fi
    mv "$draft" "$LIBS"
    rm -rf "$LIBS/${draft##*/}" # where another run was faster, mv has put the draft into its folder
}

# --- laying out a directory ------------------------------------------------------------------------------------------

# DIR/settings.env is written last: with it, DIR is laid out; without it, the next start begins anew.
lay_out() {
    [ -e "$DIR/settings.env" ] && return
    mkdir -p "$DIR"
    rm -rf "$DIR"/node-*
    chmod 700 "$DIR"
    local node voters="" servers="" replicas=$((BROKERS < 3 ? BROKERS : 3)) protocol=PLAINTEXT users=()
    for ((node = 1; node <= BROKERS; node++)); do
        voters+="${voters:+,}$node@127.0.0.1:$((PORT + BROKERS + node - 1))"
        servers+="${servers:+,}127.0.0.1:$((PORT + node - 1))"
    done
    if [ -n "$SECURE" ]; then
        protocol=SASL_SSL
        certify
        local broker_password client_password
        broker_password=$(openssl rand -hex 16)
        client_password=$(openssl rand -hex 16)
        users=(--add-scram "SCRAM-SHA-512=[name=broker,password=$broker_password]"
            --add-scram "SCRAM-SHA-512=[name=whiteboard,password=$client_password]")
    fi
    write_logging
    local cluster formatting=()
    cluster=$(head -c 16 /dev/urandom | base64 | tr '+/' 'Aa' | tr -d =) # sixteen bytes, as Kafka writes its ids
    for ((node = 1; node <= BROKERS; node++)); do
        mkdir -p "$DIR/node-$node"
        write_properties >"$DIR/node-$node/server.properties"
        "${java[@]}" kafka.tools.StorageTool format --cluster-id "$cluster" \
            --config "$DIR/node-$node/server.properties" ${users[@]+"${users[@]}"} >"$DIR/node-$node/format.log" 2>&1 &
        formatting+=($!)
    done
    for node in "${!formatting[@]}"; do
        wait "${formatting[$node]}" || fail "formatting failed: $(tail -n 3 "$DIR/node-$((node + 1))/format.log")"
    done
    write_settings >"$DIR/settings.env.draft"
    mv "$DIR/settings.env.draft" "$DIR/settings.env"
}

# One self-signed certificate serves brokers and clients; clients trust it as their authority.
certify() {
    command -v openssl >/dev/null || fail "--secure needs openssl"
    openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=localhost \
        -addext "subjectAltName=IP:127.0.0.1,DNS:localhost" \
        -keyout "$DIR/key.pem" -out "$DIR/certificate.pem" 2>/dev/null
    cat "$DIR/key.pem" "$DIR/certificate.pem" >"$DIR/keystore.pem"
}

write_logging() {
    cat >"$DIR/log4j2.properties" <<EOF
rootLogger.level = info
rootLogger.appenderRef.stdout.ref = stdout
appender.stdout.type = Console
appender.stdout.name = stdout
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = %d{ISO8601} %p %c{1} %m%n
EOF
}

write_properties() {
    cat <<EOF
node.id=$node
process.roles=broker,controller
controller.quorum.voters=$voters
controller.listener.names=CONTROLLER
listeners=CLIENTS://127.0.0.1:$((PORT + node - 1)),CONTROLLER://127.0.0.1:$((PORT + BROKERS + node - 1))
listener.security.protocol.map=CLIENTS:$protocol,CONTROLLER:PLAINTEXT
inter.broker.listener.name=CLIENTS
log.dirs=$DIR/node-$node/data

auto.create.topics.enable=false
default.replication.factor=$replicas
min.insync.replicas=$((replicas > 2 ? 2 : 1))
offsets.topic.replication.factor=$replicas
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$((replicas > 2 ? 2 : 1))
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=$replicas
share.coordinator.state.topic.min.isr=$((replicas > 2 ? 2 : 1))

# Kafka waits 9 s for a silent broker and 3 s for a group's first members; on one machine nobody is that slow.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=2
log.cleaner.dedupe.buffer.size=16777216
EOF
    [ -z "$SECURE" ] || cat <<EOF

sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
listener.name.clients.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule \\
  required username="broker" password="$broker_password";
ssl.keystore.type=PEM
ssl.keystore.location=$DIR/keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location=$DIR/certificate.pem
EOF
}

write_settings() {
    echo "export WHITEBOARD_KAFKA_BOOTSTRAP=$servers"
    echo "export WHITEBOARD_KAFKA_REPLICATION_FACTOR=$replicas"
    [ -z "$SECURE" ] || cat <<EOF
export WHITEBOARD_KAFKA_SECURITY_PROTOCOL=SASL_SSL
export WHITEBOARD_KAFKA_SASL_MECHANISM=SCRAM-SHA-512
export WHITEBOARD_KAFKA_SASL_USERNAME=whiteboard
export WHITEBOARD_KAFKA_SASL_PASSWORD=$client_password
export WHITEBOARD_KAFKA_SSL_CAFILE=$DIR/certificate.pem
EOF
}

# --- processes -------------------------------------------------------------------------------------------------------

# The pid of broker $1 of DIR if it runs; a pid file that outlived its process is not believed.
pid_of() {
    local pid command
    pid=$(cat "$DIR/node-$1/pid" 2>/dev/null) || return 1
    command=$(ps -ww -p "$pid" -o args= 2>/dev/null) || return 1
    [[ $command == *"$DIR/node-$1/server.properties"* ]] && echo "$pid"
}

nodes() {
    local found
    for found in "$DIR"/node-*; do
        [ -d "$found" ] || continue
        [ -z "$NODE" ] || [ "$NODE" = "${found##*-}" ] || continue
        echo "${found##*-}"
    done
}

start() {
    need_java
    fetch
    lay_out
    local node log deadline=$((SECONDS + START_TIMEOUT_S)) starting=()
    for node in $(nodes); do
        pid_of "$node" >/dev/null && continue
        log=$DIR/node-$node/server.log
        [ ! -e "$log" ] || mv "$log" "$log.old"
        : >"$log"
        nohup "${java[@]}" -Dlog4j2.configurationFile="$DIR/log4j2.properties" \
            kafka.Kafka "$DIR/node-$node/server.properties" >>"$log" 2>&1 </dev/null &
        echo $! >"$DIR/node-$node/pid"
        starting+=("$node")
    done
    for node in ${starting[@]+"${starting[@]}"}; do
        log=$DIR/node-$node/server.log
        until grep -q "Kafka Server started" "$log"; do
            kill -0 "$(cat "$DIR/node-$node/pid")" 2>/dev/null ||
                fail "broker $node ended; $log says: $(grep -m 1 -E '^[^ ]*(Exception|Error): ' "$log" || tail -n 1 "$log")"
            [ "$SECONDS" -lt "$deadline" ] || fail "broker $node is not ready after $START_TIMEOUT_S s; see $log"
            sleep 0.1
        done
    done
}

stop() {
    local node pid deadline=$((SECONDS + STOP_TIMEOUT_S))
    for node in $(nodes); do
        if pid=$(pid_of "$node"); then kill "-$1" "$pid" 2>/dev/null || true; fi
    done
    for node in $(nodes); do
        while pid=$(pid_of "$node"); do
            # brokers that stop together lose their quorum, and the last would wait for it
            [ "$SECONDS" -lt "$deadline" ] || kill -KILL "$pid" 2>/dev/null || true
            sleep 0.1
        done
        rm -f "$DIR/node-$node/pid"
    done
}

status() {
    local node pid all=0
    [ -n "$(nodes)" ] || fail "no broker was ever started in $DIR"
    for node in $(nodes); do
        if pid=$(pid_of "$node"); then echo "broker $node runs, pid $pid"; else
            echo "broker $node does not run"
            all=1
        fi
    done
    return "$all"
}

settings() {
    cat "$DIR/settings.env" 2>/dev/null || fail "nothing was laid out in $DIR; start it first"
}

# --- command line ----------------------------------------------------------------------------------------------------

verb=${1:---help}
shift || true
DIR=.whiteboard/kafka PORT=9092 BROKERS=1 SECURE="" NODE=""
while [ $# -gt 0 ]; do
    case $1 in
    --secure) SECURE=1 ;;
    --help | -h) verb=--help ;;
    --dir | --port | --brokers | --node)
        [ -n "${2:-}" ] || fail "$1 needs a value; see --help"
        case $1 in --dir) DIR=$2 ;; --port) PORT=$2 ;; --brokers) BROKERS=$2 ;; --node) NODE=$2 ;; esac
        shift
        ;;
    *) fail "unknown option $1; see --help" ;;
    esac
    shift
done
[[ $PORT =~ ^[1-9][0-9]{0,4}$ ]] || fail "--port $PORT is no port"
[[ $BROKERS =~ ^[1-9]$ ]] || fail "--brokers $BROKERS: from 1 to 9"
case $DIR in /*) ;; *) DIR=$PWD/$DIR ;; esac

case $verb in
start) start && settings ;;
stop) stop TERM ;;
kill) stop KILL ;;
status) status ;;
settings) settings ;;
fetch)
    need_java
    fetch
    ;;
classpath)
    fetch
    printf '%s\n' "$LIBS"/*.jar | paste -sd: -
    ;;
--help | -h | help) usage ;;
*) fail "unknown verb $verb; see --help" ;;
esac
