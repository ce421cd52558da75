#!/usr/bin/env bash
# A Ray cluster inside a Slurm job: a node for the head, which trains too, and one Ray node on every other.
#
#     sbatch --nodes=4 --gpus-per-node=4 clusters/slurm.sh pretrain sd-mocov3 data.train=/data/images \
#         scaling.workers=16 --output /shared/runs/first
#
# Everything behind the script's name is a `strata` command. Give --output a folder that all nodes see. If the job is
# requeued or its time is over, submit it again with `pretrain --resume /shared/runs/first`; a minute before the end
# Slurm says so, and the run writes a checkpoint.
#SBATCH --job-name=strata
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=TERM@60
#SBATCH --requeue
set -euo pipefail

command -v strata >/dev/null || { echo "strata is not on the PATH: activate its environment before sbatch" >&2; exit 2; }
[ $# -gt 0 ] || { echo "expected a strata command, such as: pretrain sd-mocov3 data.train=FOLDER" >&2; exit 2; }

export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n') # of this job alone
export RAY_AUTH_TOKEN

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 10000)) # several jobs may share a login network
temp=/tmp/ray-$SLURM_JOB_ID

srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --node-ip-address="$address" --port="$port" --temp-dir="$temp" --include-dashboard=false \
    --disable-usage-stats --block &
sleep 15
if [ ${#nodes[@]} -gt 1 ]; then
    others=$(IFS=,; echo "${nodes[*]:1}")
    srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --nodelist="$others" \
        ray start --address="$address:$port" --disable-usage-stats --block &
    sleep 15
fi

# The signal that Slurm sends before the end reaches this script; the run is told and waited for.
RAY_ADDRESS=$address:$port strata "$@" &
run=$!
trap 'kill -TERM $run' TERM
status=0
wait $run || status=$?
while kill -0 $run 2>/dev/null; do # `wait` returns when the signal comes, the run ends later
    status=0
    wait $run || status=$?
done
exit $status
