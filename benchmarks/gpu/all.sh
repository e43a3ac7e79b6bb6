#!/usr/bin/env bash
# All GPU tests and benchmarks within a time budget, the most valuable first. From the repository's root:
#
#   OUT=folder [BUDGET=395] benchmarks/gpu/all.sh
#
# OUT gets results as they come: rows.jsonl (one JSON object a row), *.log, *.xml; the tail of each step is printed. A step
# that fails or runs out of time does not end the rest; the exit status says whether one did.
#
# PYTHON is an interpreter with torch and pytest, by default python3. It needs no package index: .whl/, if there is one,
# holds the wheels that the machine lacks (starlette uvicorn uvicorn-worker httptools websockets gunicorn msgspec click
# uvloop, 6 MB), which go to .site/. No setting of the card is touched.
#
# Smaller, for a machine without a GPU: SECONDS_EACH CONNECTIONS CLIENTS SHAPES SIZES WAYS REPLICAS BATCH GIB REPEATS DEVICE.
set -u
cd "$(dirname "$0")/../.." || exit
: "${OUT:?a folder for results}" "${BUDGET:=395}" "${PYTHON:=python3}" "${DEVICE:=cuda:0}"
: "${SECONDS_EACH:=3}" "${CONNECTIONS:=512}" "${CLIENTS:=8}" "${SHAPES:=resnet50 bert-base}" "${SIZES:=64 128}"
: "${WAYS:=served plain}" "${REPLICAS:=1 3}" "${BATCH:=64}" "${GIB:=1}" "${REPEATS:=2}"
END=$((SECONDS + BUDGET)) FAILED=0
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd)
export PYTHONUNBUFFERED=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
if compgen -G '.whl/*.whl' >/dev/null; then
  $PYTHON -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target .site .whl/*.whl || exit
fi
export PYTHONPATH=$PWD:$PWD/.site
{ nvidia-smi -L || echo "no GPU"; free -g; } 2>/dev/null

step() { # step NAME LIMIT COMMAND...: at most LIMIT seconds, to OUT/NAME.log
  local log=$OUT/$1.log name=$1 left=$((END - SECONDS)) began=$SECONDS status
  [ $left -gt "$2" ] && left=$2
  shift 2
  [ $left -lt 9 ] && { echo "## skipped $name: no time left"; FAILED=1; return 1; }
  timeout -k 5 $left "$@" >>"$log" 2>&1
  status=$?
  [ $status -eq 0 ] || FAILED=1
  echo "## $name: status $status, $((SECONDS - began)) s"
  tail -c 1500 "$log"
  return $status
}
tests() { # tests NAME FILES...
  local name=$1
  shift
  step "$name" 140 $PYTHON -m pytest -p pytest_timeout -p no:cacheprovider --timeout 100 -W default -rA --tb short \
    --durations 9 --junitxml "$OUT/$name.xml" "$@"
}
ROWS="--json $OUT/rows.jsonl"
LOAD="--seconds $SECONDS_EACH --repeats 1 --connections $CONNECTIONS --clients $CLIENTS"
G=tests/gpu/test_

step probe 60 $PYTHON benchmarks/gpu/probe.py $ROWS
# The driver stays up between servers.
$PYTHON -c 'import pynvml, time; pynvml.nvmlInit(); time.sleep(600)' 2>/dev/null &
KEEP=$!
tests a ${G}speed.py ${G}graphs.py &
BESIDE=$!
tests b ${G}faults.py ${G}serve.py ${G}kinds.py
wait $BESIDE || FAILED=1
step throughput 165 $PYTHON benchmarks/gpu/throughput.py $LOAD $ROWS --shapes $SHAPES --sizes $SIZES --ways $WAYS \
  --replicas $REPLICAS
step weights 40 $PYTHON benchmarks/weights.py --device "$DEVICE" --gib "$GIB" --rounds 2 $ROWS
step beside 60 $PYTHON benchmarks/gpu/beside.py --seconds "$SECONDS_EACH" --connections "$CONNECTIONS" --clients "$CLIENTS" \
  --batches $BATCH $ROWS
# Alone: they time, and they measure memory.
tests c ${G}overlap.py ${G}models.py ${G}weights.py
step overlap 60 $PYTHON benchmarks/gpu/overlap.py $LOAD $ROWS --batch "$BATCH" --shape "${SHAPES%% *}"
step spares 60 $PYTHON benchmarks/gpu/spares.py --repeats "$REPEATS" $ROWS
kill $KEEP 2>/dev/null
exit $FAILED
