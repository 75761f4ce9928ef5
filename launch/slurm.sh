#!/usr/bin/env bash
# One run over several machines:  sbatch --nodes 2 --gpus-per-node 8 launch/slurm.sh method=gmm results=/shared/results
# CONFIG=launch/fsdp2.yaml sbatch ... takes another launch file. Two minutes before its time is over the run is asked to stop: it saves
# itself, and is put back into the queue, where it goes on.
#SBATCH --job-name=cilbench
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
export CONFIG="${CONFIG:-launch/multinode.yaml}" ARGUMENTS="$*" GPUS="${SLURM_GPUS_ON_NODE:-8}"
FIRST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export FIRST
stopped=
trap 'stopped=yes; kill -TERM "$launched"' USR1
srun bash -c 'exec accelerate launch --config_file "$CONFIG" --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \
  --num_processes $((SLURM_NNODES * GPUS)) --main_process_ip "$FIRST" --main_process_port 29500 bench/run.py $ARGUMENTS' &
launched=$!
wait "$launched"
code=$?
if [ -n "$stopped" ]; then
  wait "$launched"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
