# Makes a bare machine of the lab a database machine. Run by support/database.py, which writes
# ADDRESS, ROLE, PASSWORD, DATA (the folder of the clusters' data), MAX_WAL_SIZE and
# MAX_SLOT_WAL_KEEP_SIZE before it.
set -eu

# The packages start nothing by themselves and make no cluster: the first start is with ours.
install -d /etc/postgresql-common
printf "create_main_cluster = false\nadd_include_dir = 'conf.d'\n" \
  > /etc/postgresql-common/createcluster.conf
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
export DEBIAN_FRONTEND=noninteractive
packages() {
  apt-get install -qy --no-install-recommends -o Dpkg::Options::=--force-unsafe-io \
    postgresql-17 pgbouncer >/dev/null
}
packages || { apt-get update -q >/dev/null && packages; }
rm /usr/sbin/policy-rc.d

# Faults come closer together than systemd lets a service start. Debian's pg_ctlcluster takes 2 s
# more for a start than Postgres does.
for unit in postgresql@ pgbouncer; do
  install -d "/etc/systemd/system/$unit.service.d"
  printf '[Unit]\nStartLimitIntervalSec=0\n[Service]\nTimeoutStopSec=20\n' \
    > "/etc/systemd/system/$unit.service.d/faults.conf"
done
cat > /etc/systemd/system/postgresql@.service.d/direct.conf <<EOF
[Service]
Type=notify
User=postgres
ExecStart=
ExecStart=/usr/lib/postgresql/17/bin/postgres -c config_file=/etc/postgresql/%I/postgresql.conf
ExecStop=
KillMode=mixed
KillSignal=SIGINT
PIDFile=
EOF
systemctl daemon-reload

install -d -o postgres -g postgres -m 700 "$DATA"
pg_createcluster 17 main --datadir "$DATA/main" --locale C.UTF-8 --encoding UTF8 \
  >/dev/null
cat > /etc/postgresql/17/main/conf.d/machine.conf <<EOF
listen_addresses = '$ADDRESS'
max_connections = 60
password_encryption = 'scram-sha-256'
# As through pgbouncer: what is measured is the same on both ways.
ssl = off
shared_buffers = '256MB'
wal_level = 'replica'
max_wal_size = '$MAX_WAL_SIZE'
# A replica that is stopped for long loses its place before the disk is full.
max_slot_wal_keep_size = '$MAX_SLOT_WAL_KEEP_SIZE'
wal_retrieve_retry_interval = '200ms'
EOF
cat > /etc/postgresql/17/main/pg_hba.conf <<EOF
local all         postgres peer
local replication postgres peer
local all         $ROLE    scram-sha-256
host  all         $ROLE    samenet scram-sha-256
EOF
systemctl start postgresql@17-main
cd /
runuser -u postgres -- psql -qv ON_ERROR_STOP=1 <<EOF
CREATE ROLE $ROLE LOGIN CREATEDB PASSWORD '$PASSWORD';
GRANT pg_read_all_stats TO $ROLE;
-- In this database alone; replicas have it too.
GRANT EXECUTE ON FUNCTION pg_wal_replay_pause(), pg_wal_replay_resume(),
  pg_get_wal_replay_pause_state() TO $ROLE;
EOF

cat > /etc/pgbouncer/pgbouncer.ini <<EOF
[databases]
* = host=/var/run/postgresql

[pgbouncer]
listen_addr = $ADDRESS
listen_port = 6432
unix_socket_dir =
logfile = /var/log/postgresql/pgbouncer.log
pidfile = /var/run/postgresql/pgbouncer.pid
log_connections = 0
log_disconnections = 0
auth_type = scram-sha-256
auth_file = /etc/pgbouncer/userlist.txt
pool_mode = transaction
max_prepared_statements = 200
default_pool_size = 16
max_client_conn = 300
query_wait_timeout = 10
# A database that a test has left gives its connections back.
server_idle_timeout = 10
# After a refused login: its default, 15 s, would be how long every fault lasts.
server_login_retry = 1
ignore_startup_parameters = extra_float_digits
EOF
printf '"%s" "%s"\n' "$ROLE" "$PASSWORD" > /etc/pgbouncer/userlist.txt
systemctl start pgbouncer
