# Loads modules, and runs a copy of the code with the Python that sor was called with (made with these modules).
# Names in double braces are replaced by quoted values: write no quotes around them.
command -v module >/dev/null || source /etc/profile
module purge
module load {{modules}} || exit
export PATH="$(dirname {{python}}):$PATH"
export PYTHONPATH={{code}}:"${PYTHONPATH:-}":"$PWD"
export PYTHONSAFEPATH=1   # keeps Python from importing code from the working directory first

# Compute nodes without internet: fetch models and data on a login node, and uncomment this.
# export HF_HOME=/scratch/me/huggingface   # their location; home directories are often too small
# export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1

# NCCL: the network interface, and messages on errors.
# export NCCL_SOCKET_IFNAME=ib0
# export NCCL_DEBUG=WARN

srun --unbuffered --output={{log}} --export=ALL --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  {{python}} -u -m {{module}} {{submission}}
