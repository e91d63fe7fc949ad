# An Apptainer or Singularity container, whose own Python runs a copy of the code. Variables:
#   program  apptainer or singularity        image  image file
#   gpu      --nv (NVIDIA) or --rocm (AMD)   binds  folders that jobs need in addition to the study's: /a,/b
# Names in double braces are replaced by quoted values: write no quotes around them.

# export HF_HOME=/scratch/me/huggingface HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1   # nodes without internet

srun --unbuffered --output={{log}} --export=ALL --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  {{program}} exec {{gpu}} --bind={{study}} --bind={{binds}} {{image}} \
  env PYTHONPATH={{code}}:"$PWD" PYTHONSAFEPATH=1 python3 -u -m {{module}} {{submission}}
