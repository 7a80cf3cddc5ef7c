#!/bin/sh
# Apache Bench against level individual: bench/load/ab.sh, no token.
# Another address: bench/load/ab.sh http://localhost:8001
exec ab -n 10000 -c 100 "${1:-http://localhost:8000}/api/v1/inbox/code"
