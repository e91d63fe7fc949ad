# A user environment (uenv) through Slurm's plugin, as at CSCS, and the Python that sor was called with: make its
# virtual environment inside the uenv. Variables:
#   uenv  name and version, as pytorch/v2.6.0:v1     view  of that uenv; by default "default"
# Names in double braces are replaced by quoted values: write no quotes around them; words after = are defaults.
export {{environment}}
export PYTHONPATH={{code}}:"${PYTHONPATH:-}":"$PWD"

srun --unbuffered --output={{log}} --export=ALL --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  --uenv={{uenv}} --view={{view=default}} \
  {{python}} -u -m {{module}} {{submission}}
