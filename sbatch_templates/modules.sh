# Modules, and a copy of the code, run with the Python that sor was called with (made with the same modules).
# Names in double braces are filled in, quoted already: write no quotes around them.
command -v module >/dev/null || source /etc/profile
module purge
module load {{modules}} || exit
export PATH="$(dirname {{python}}):$PATH"
export PYTHONPATH={{code}}:"${PYTHONPATH:-}":"$PWD"
export PYTHONSAFEPATH=1   # or Python would take the code of the working directory first

# Compute nodes without internet: fetch models and data on a login node, and say so here.
# export HF_HOME=/scratch/me/huggingface   # where they are; a home directory is often too small
# export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1

# NCCL: the network that it uses, and what it prints when something goes wrong.
# export NCCL_SOCKET_IFNAME=ib0
# export NCCL_DEBUG=WARN

srun --unbuffered --output={{log}} --export=ALL --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  {{python}} -u -m {{module}} {{submission}}
