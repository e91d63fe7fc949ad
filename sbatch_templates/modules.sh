# Loads modules, and runs a copy of the code with the Python that sor was called with (made with these modules).
# Names in double braces are replaced by quoted values: write no quotes around them.
command -v module >/dev/null || source /etc/profile
module purge
module load {{modules}} || exit
export {{environment}}
export PATH="$(dirname {{python}}):$PATH"
export PYTHONPATH={{code}}:"${PYTHONPATH:-}":"$PWD"

srun --unbuffered --output={{log}} --export=ALL --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  {{python}} -u -m {{module}} {{submission}}
