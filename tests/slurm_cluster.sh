#!/usr/bin/env bash
# A real, small SLURM on one Debian machine, for tests of what runs under srun and sbatch:
#
#   tests/slurm_cluster.sh up [NODES]   start it (1 to 4 nodes, default 2); prints what to export
#   tests/slurm_cluster.sh status       0 if it answers, 3 if not
#   tests/slurm_cluster.sh kill NODE    SIGKILL to all that runs on node1, node2, ...; `up` brings it back
#   tests/slurm_cluster.sh cut NODE     the same with its cable cut first: no other node hears of it
#   tests/slurm_cluster.sh down         end its jobs and daemons, remove its state folder
#
# Beside it sshd and pdsh are installed, and not started: for tests of launchers without a SLURM.
# Everything it writes lies in $SLURM_TEST_DIR (default /tmp/blue-slurm); a SLURM that the machine
# already has is left alone. Missing packages are installed, unless SLURM_TEST_INSTALL=no.
# Each node has a network namespace of its own, on a bridge with the controller; where the machine
# does not allow that (or SLURM_TEST_NETWORK=loopback), an address of its own on the loopback device.
# Exit 77, with one line that says why: this machine cannot or may not have such a cluster.
set -euo pipefail

DIR=$(realpath -m "${SLURM_TEST_DIR:-/tmp/blue-slurm}")
CONF=$DIR/etc/slurm.conf
MARK=BLUE_SLURM_DIR=$DIR # in the environment of every daemon: how we know our own processes
# The bridge, the network namespaces and their addresses are named after the folder: what a killed
# session left behind is found again, and two clusters do not meet.
SUM=$(cksum <<<"$DIR" | cut -d' ' -f1)
BRIDGE=$(printf 'blue%06x' $((SUM % 16777216)))
SUBNET=10.$((200 + SUM % 50)).$((SUM / 50 % 256))
PATH=$PATH:/usr/sbin:/sbin

skip() {
  printf 'slurm_cluster: %s\n' "$*"
  [[ ! -e $DIR/.slurm_cluster || -e $CONF ]] || rm -rf "$DIR" # nothing was started
  exit 77
}
die() { printf 'slurm_cluster: %s\n' "$*" >&2; exit 1; }

wait_for() { # seconds, what, command...
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >"$DIR/log/wait.out" 2>&1; do
    ((SECONDS < until)) || die "no $what in time: $(tail -n1 "$DIR/log/wait.out") (logs in $DIR/log)"
    sleep 0.1
  done
}

# ---- packages
missing() { # the tools that are not there, in one line
  local tool
  for tool in munged slurmctld slurmd slurmdbd srun mariadbd mariadb-install-db my_print_defaults \
    sshd pdsh; do
    command -v "$tool" >/dev/null || printf '%s ' "$tool"
  done
}

install_packages() {
  local lacking policy=/usr/sbin/policy-rc.d made="" log=$DIR/log/apt.log
  lacking=$(missing) && [[ -n $lacking ]] || return 0
  [[ ${SLURM_TEST_INSTALL:-yes} != no ]] || skip "SLURM_TEST_INSTALL=no, and not installed: $lacking"
  # The names of the packages are Debian's. A machine with a SLURM configuration of its own belongs
  # to some cluster: packages added there could clash with its version.
  command -v apt-get >/dev/null || skip "no apt-get here to install: $lacking"
  grep -Eqs '^ID(_LIKE)?=.*debian' /etc/os-release || skip "not Debian; not installed: $lacking"
  [[ ! -e /etc/slurm/slurm.conf ]] || skip "/etc/slurm/slurm.conf is there; will not add: $lacking"
  # The packages would start their services. 101 is policy-rc.d's word for "forbidden".
  if [[ ! -e $policy ]]; then
    made=$policy
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
  elif "$policy" munge start >/dev/null 2>&1; then
    skip "$policy lets packages start services; not installed: $lacking"
  fi
  echo "installing for: $lacking" >&2
  # mariadb-server-core, not mariadb-server: the programs without the service and its database.
  # The lock: tests/chromium.sh may be installing, too.
  if ! { flock 8 && apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y \
      --no-install-recommends -o DPkg::Lock::Timeout=300 munge slurmctld slurmd slurm-client \
      slurmdbd mariadb-server-core mariadb-client-core openssh-server pdsh; } >"$log" 2>&1 </dev/null 9<&- \
      8>"${TMPDIR:-/tmp}/blue-apt.lock"; then
    skip "apt-get failed: $(grep -m1 '^E:' "$log" || tail -n1 "$log")"
  fi
  lacking=$(missing)
  [[ -z $lacking ]] || skip "still missing after apt-get: $lacking"
  [[ -z $made ]] || { rm -f "$made"; trap - EXIT; }
}

# ---- processes
alive() { # name; by its mark, since a stale pid may be another's process by now
  grep -qzxF "$MARK" "/proc/$(cat "$DIR/run/$1.pid" 2>/dev/null || echo none)/environ" 2>/dev/null
}

start() { # name, command...: a daemon in the foreground of its own session, so that $! is its pid
  local name=$1
  shift
  ! alive "$name" || return 0
  cd "$DIR/spool"
  env "$MARK" SLURM_CONF="$CONF" setsid "$@" </dev/null >>"$DIR/log/$name.out" 2>&1 9<&- &
  echo $! >"$DIR/run/$name.pid"
}

# Daemons by their mark, tasks by what slurmd gave them, and slurmstepd, which writes its title over
# its environment, by the folder that it has from its slurmd.
our_processes() {
  local comm
  {
    grep -lzxF "$MARK" /proc/[0-9]*/environ
    grep -lzxF "SLURM_CONF=$CONF" /proc/[0-9]*/environ | xargs -r grep -lz '^SLURMD_NODENAME='
    for comm in $(grep -lx slurmstepd /proc/[0-9]*/comm); do
      [[ $(readlink "${comm%comm}cwd") != "$DIR/spool" ]] || echo "$comm"
    done
  } 2>/dev/null | cut -d/ -f3 | sort -u || true
}

end_processes() {
  local pids try
  for try in {1..50}; do
    pids=$(our_processes)
    [[ -n $pids ]] || return 0
    ((try != 1)) || xargs kill -TERM <<<"$pids" 2>/dev/null || true
    ((try <= 25)) || xargs kill -KILL <<<"$pids" 2>/dev/null || true
    sleep 0.2
  done
  die "cannot end: $pids"
}

# ---- network
connect() { # nodes: what of bridge, namespaces and cables is not there yet
  local i name
  if ! ip link show "$BRIDGE" >/dev/null 2>&1; then
    ! ip -4 route show match "$SUBNET.1" | grep -v ^default || return 1 # somebody's addresses
    ip link add "$BRIDGE" type bridge && ip addr add "$SUBNET.254/24" dev "$BRIDGE" || return 1
    ip link set "$BRIDGE" up || return 1
  fi
  for ((i = 1; i <= $1; i++)); do
    name=$BRIDGE-$i
    [[ -e /run/netns/$name ]] || ip netns add "$name" || return 1
    if ! ip link show "$name" >/dev/null 2>&1; then
      ip link add "$name" type veth peer name eth0 netns "$name" || return 1
      ip link set "$name" master "$BRIDGE" && ip -n "$name" link set lo up || return 1
      ip -n "$name" addr add "$SUBNET.$i/24" dev eth0 && ip -n "$name" link set eth0 up || return 1
    fi
    ip link set "$name" up || return 1
  done
}

reaches() { # address, whence (a path): an answer, if only that nothing listens; a firewall gives none
  local said try
  for try in 1 2 3; do
    said=$(timeout 2 nsenter --net="$2" bash -c ": </dev/tcp/$1/9" 2>&1) && return 0
    [[ $said != *refused* ]] || return 0
  done
  echo "no answer from $1 to $2" && return 1
}

all_reached() { # nodes
  local i
  for ((i = 1; i <= $1; i++)); do
    reaches "$SUBNET.$i" /proc/self/ns/net && reaches "$SUBNET.254" "/run/netns/$BRIDGE-$i" || return 1
    reaches "$SUBNET.1" "/run/netns/$BRIDGE-$i" || return 1
  done
}

disconnect() {
  local i
  command -v ip >/dev/null || return 0
  for i in {1..4}; do
    [[ ! -e /run/netns/$BRIDGE-$i ]] || ip netns del "$BRIDGE-$i" || true
    ip link del "$BRIDGE-$i" 2>/dev/null || true # else it would live as long as its last process
  done
  ip link del "$BRIDGE" 2>/dev/null || true
}

choose_network() { # nodes: the address without its last number, where the nodes have theirs
  if [[ ${SLURM_TEST_NETWORK:-} != loopback ]] &&
    { connect "$1" && all_reached "$1"; } >>"$DIR/log/network.out" 2>&1; then
    echo "$SUBNET" >"$DIR/etc/network"
  else
    disconnect
    echo 127.0.1 >"$DIR/etc/network"
  fi
}

has_cables() { [[ $(<"$DIR/etc/network") == "$SUBNET" ]]; }

# ---- configuration
free_ports() { # how many: the first of that many unused ports in a row, below the ephemeral range
  local base port
  for ((base = 21000; base < 31000; base += 100)); do
    for ((port = base; port < base + $1; port++)); do
      ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || continue 2
    done
    echo "$base" && return
  done
  die "no free ports"
}

write_conf() { # nodes
  local nodes=$1 base i network controller
  base=$(free_ports $((nodes + 2)))
  network=$(<"$DIR/etc/network")
  controller=127.0.0.1
  ! has_cables || controller=$network.254
  (umask 077 && mungekey --create --keyfile="$DIR/etc/munge.key")
  # Inside the nodes their names resolve to their own addresses: what a training script does with
  # the first name of its node list must work as on a real cluster.
  for ((i = 1; i <= nodes; i++)); do echo "$network.$i node$i"; done >"$DIR/etc/hosts"
  cat /etc/hosts >>"$DIR/etc/hosts"
  cat >"$CONF" <<END
ClusterName=blue
SlurmctldHost=$(uname -n | cut -d. -f1)($controller)
SlurmctldPort=$base
SlurmUser=root
# A requeued job waits until its old credential has expired: 120 s by default.
AuthInfo=socket=$DIR/munge/socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
MpiDefault=none
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.own.pid
SlurmdPidFile=$DIR/run/%n.own.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/%n.log
# Memory is not counted, and a node has the CPUs and memory that it says, not the machine's.
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
# Quick answers: short waits before scheduling, killing, giving a node up.
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5
KillWait=5
InactiveLimit=0
MinJobAge=120
SlurmdTimeout=10
UnkillableStepTimeout=30
ReturnToService=2
# A job in "urgent" preempts one in "debug": that one's steps get its --signal, and GraceTime later
# SIGTERM; then it is requeued.
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$controller
AccountingStoragePort=$((base + 1))
# With munge this names the socket: clients of slurmdbd do not look at AuthInfo.
AccountingStoragePass=$DIR/munge/socket
END
  for ((i = 1; i <= nodes; i++)); do
    echo "NodeName=node$i NodeAddr=$network.$i Port=$((base + 1 + i)) CPUs=4 RealMemory=16000"
  done >>"$CONF"
  cat >>"$CONF" <<END
PartitionName=debug Nodes=ALL Default=YES DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=urgent Nodes=ALL DefaultTime=10 PriorityTier=10 PreemptMode=OFF
END
  (umask 077 && cat >"$DIR/etc/slurmdbd.conf") <<END
DbdHost=localhost
DbdAddr=$controller
DbdPort=$((base + 1))
SlurmUser=root
AuthInfo=socket=$DIR/munge/socket
PidFile=$DIR/run/slurmdbd.own.pid
LogFile=$DIR/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
END
  echo "$nodes" >"$DIR/etc/nodes"
}

# ---- daemons
start_munge() {
  start munged munged --foreground --force --num-threads=2 --key-file="$DIR/etc/munge.key" \
    --socket="$DIR/munge/socket" --pid-file="$DIR/run/munged.own.pid" \
    --log-file="$DIR/log/munged.log" --seed-file="$DIR/munge/seed"
  wait_for 20 "answer of munged" munge --socket="$DIR/munge/socket" --no-input
}

start_accounting() {
  # --no-defaults: no word of /etc/mysql. A throw-away database need not survive a power cut.
  if [[ ! -d $DIR/db/data/mysql ]]; then
    mariadb-install-db --no-defaults --user=root --datadir="$DIR/db/data" --skip-test-db \
      --auth-root-authentication-method=normal >"$DIR/log/mariadb-install.out" 2>&1 || die "no database: $DIR/log"
  fi
  alive mariadbd || rm -f "$DIR/db/socket" # of one that was killed
  start mariadbd mariadbd --no-defaults --user=root --datadir="$DIR/db/data" --skip-networking \
    --socket="$DIR/db/socket" --pid-file="$DIR/run/mariadbd.own.pid" --performance-schema=OFF \
    --innodb-flush-log-at-trx-commit=0 --innodb-buffer-pool-size=64M --innodb-log-file-size=16M \
    --innodb-lock-wait-timeout=900
  wait_for 60 "socket of MariaDB" test -S "$DIR/db/socket"
  # slurmdbd.conf has no word for the socket; the client library takes it from the environment.
  start slurmdbd env MYSQL_UNIX_PORT="$DIR/db/socket" slurmdbd -D
  wait_for 60 "answer of slurmdbd" sacctmgr -n show cluster
  [[ -n $(sacctmgr -nP show cluster blue format=cluster) ]] ||
    sacctmgr -i add cluster blue >"$DIR/log/sacctmgr.out" 2>&1 ||
    die "no cluster in slurmdbd: $DIR/log/sacctmgr.out"
}

start_node() { # number: a slurmd that sees its own host name, its own /etc/hosts and its own network
  local network=()
  ! has_cables || network=(nsenter --net="/run/netns/$BRIDGE-$1")
  start "node$1" "${network[@]}" unshare --mount --uts --propagation slave sh -c '
    hostname "$1" && mount --bind "$2" /etc/hosts && exec slurmd -D -N "$1"' sh "node$1" "$DIR/etc/hosts"
}

kill_node() { # name, whether to cut its cable first
  local pid space status pids=()
  [[ $1 =~ ^node[1-4]$ ]] && alive "$1" || die "$1: no such node, or not running"
  pid=$(<"$DIR/run/$1.pid")
  [[ $2 != cut ]] || ! has_cables || ip link set "$BRIDGE-${1#node}" down
  space=$(readlink "/proc/$pid/ns/uts") # slurmd, slurmstepd and tasks share the node's host name
  for status in /proc/[0-9]*; do
    [[ $(readlink "$status/ns/uts" 2>/dev/null) != "$space" ]] || pids+=("${status#/proc/}")
  done
  kill -KILL "${pids[@]}" 2>/dev/null || true
  rm -f "$DIR/run/$1.pid"
}

usable() { # every node may take jobs, idle or not: no DOWN, no "idle*" (does not respond)
  sinfo -hN -p debug -o %T | grep . && ! sinfo -hN -p debug -o %T | grep -vE '^(idle|mixed|alloc|compl)[a-z]*$'
}

answers() { [[ -e $CONF ]] && scontrol ping 2>/dev/null | grep -q 'is UP'; }

# ---- commands
refuse_foreign() { # a SLURM that answers where the user's own commands would look
  local conf=${1:-/etc/slurm/slurm.conf}
  [[ $conf != "$CONF" && -e $conf ]] && command -v scontrol >/dev/null || return 0
  ! SLURM_CONF=$conf timeout 20 scontrol ping 2>/dev/null | grep -q 'is UP' ||
    skip "another SLURM answers here ($conf)"
}

lock() { # on the folder above: it outlives ours, and two clusters do not look for ports at once
  mkdir -p "$(dirname "$DIR")"
  exec 9<"$(dirname "$DIR")"
  flock -w 600 9 || die "another slurm_cluster.sh holds $(dirname "$DIR")"
}

remove() {
  [[ -e $DIR/.slurm_cluster || -z $(ls -A "$DIR" 2>/dev/null) ]] || die "$DIR is not mine, left as it is"
  # Through SLURM first: its steps then end as they would, and in their own time.
  ! { alive slurmctld && answers; } || timeout 20 scancel --signal=KILL --full --state=RUNNING || true
  end_processes
  disconnect
  rm -rf "$DIR"
}

up() {
  local nodes=${1:-} i
  [[ -z $nodes || $nodes =~ ^[1-4]$ ]] || die "nodes: 1 to 4, not $nodes"
  ((EUID == 0)) || skip "not root"
  [[ $DIR =~ ^[[:alnum:]/._-]{2,80}$ ]] || skip "SLURM_TEST_DIR: too long for a socket, or odd: $DIR"
  unshare --mount --uts true 2>/dev/null || skip "may not make namespaces (unshare --mount --uts)"
  refuse_foreign "${CALLER_CONF:-}"
  refuse_foreign
  lock
  if alive slurmctld; then
    [[ -z $nodes || $nodes == "$(cat "$DIR/etc/nodes")" ]] ||
      die "up already, with $(cat "$DIR/etc/nodes") nodes: run 'down' first"
  else
    remove # what a crash or a reboot left
    mkdir -p "$DIR"/{etc,log,run,state,spool,munge,db/data} && touch "$DIR/.slurm_cluster"
    chmod 700 "$DIR/db" "$DIR/state"
    install_packages
    choose_network "${nodes:-2}"
    write_conf "${nodes:-2}"
  fi
  nodes=$(<"$DIR/etc/nodes")
  # Each of these passes over what is alive: `up` also brings back a daemon that a test has killed.
  ! has_cables || connect "$nodes" >>"$DIR/log/network.out" 2>&1 || die "no network: $DIR/log/network.out"
  start_munge
  start_accounting
  start slurmctld slurmctld -D
  for ((i = 1; i <= nodes; i++)); do start_node "$i"; done
  wait_for 60 "usable nodes" usable
  wait_for 20 "answer of sacct" sacct -X
  echo "export SLURM_CONF=$CONF"
}

status() {
  answers || { echo "down: nothing answers in $DIR"; exit 3; }
  sinfo -hN -p debug -o '%N: %T, %c CPUs'
  sacctmgr -nP show cluster format=cluster,controlhost,controlport | sed 's/^/accounting: /'
  echo "export SLURM_CONF=$CONF"
}

CALLER_CONF=${SLURM_CONF:-}
export SLURM_CONF=$CONF
case "${1:-}" in
  up) up "${2:-}" ;;
  status) status ;;
  kill | cut) lock; kill_node "${2:-}" "$1" ;;
  down) ((EUID == 0)) || skip "not root"; lock; remove ;;
  *) echo "usage: $0 up [NODES] | status | kill NODE | cut NODE | down" >&2; exit 2 ;;
esac
