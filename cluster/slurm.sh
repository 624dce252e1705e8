#!/bin/bash
# A Ray cluster inside an allocation, for `dvc repro` in a clone that the nodes see:
#     sbatch cluster/slurm.sh                  # the whole experiment
#     sbatch cluster/slurm.sh train_speech     # targets of `dvc repro`
# Set DAVSS_STORAGE (a bucket, or a folder that all nodes mount) before; each node keeps its cache in $TMPDIR.
#SBATCH --job-name=davss
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
set -euo pipefail

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | cut -d ' ' -f 1)
# Nodes of a Slurm cluster are shared by its users: without the token nobody else may submit.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 DAVSS_CLUSTER=http://$address:8265

srun --nodes=1 --ntasks=1 -w "$head" \
    ray start --head --block --node-ip-address="$address" --port=6379 --dashboard-host="$address" &
if [ "$SLURM_NNODES" -gt 1 ]; then
    srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$head" \
        bash -c "until ray start --block --address=$address:6379; do sleep 5; done" &
fi
until python -c 'from cluster import jobs; jobs.connect(None)' 2>/dev/null; do sleep 5; done

# Before the time is up Slurm asks the client to go; jobs end with the allocation and go on from what the storage has.
dvc repro "$@" &
client=$!
trap 'kill -INT $client' TERM
wait $client
