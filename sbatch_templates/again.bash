# What every job does once its work has ended: it goes back into the queue if the work says so.
#
# Stands before the template, whose last exit code it is given. What the ranks say is in a file of the
# submission's folder: "again", "memory" (again, with more of it) or "stop". Where no rank could write it, exit
# code 75 says "again", and one of a kill from outside, too; a run that gets nowhere again and again finds that
# out itself. A run that was killed for its memory limit is requeued once, with the request raised; how much it
# had stands in the file .memory then, for the next run and for whoever looks at a run that does not follow.
# Names in double braces are filled in, quoted already: write no quotes around them.
# Not SLURM_JOB_ID, which for one element of each array is the whole array's; but where there is no array.
this_job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
this_job=${this_job:-$SLURM_JOB_ID}
element={{submission}}/$this_job
word=$element.${SLURM_RESTART_COUNT:-0}.word
mine=$SLURM_JOB_NAME   # which tells this job from one with its number on another cluster
raise={{raise}}   # as scontrol update takes it: MinMemoryNode=2048; empty: the request is not raised
began=$(stat --format=%s "${element}_0_log.out" 2>/dev/null)   # what is before is of earlier runs

ask_slurm() {   # set `state`, and `where` for scontrol to ask the same controller; fail where none knows the job
  local lines line
  for where in '' ${SLURM_CLUSTER_NAME:+"--clusters=$SLURM_CLUSTER_NAME"}; do
    lines=$(trap '' TERM; unset SLURM_CLUSTERS; squeue --noheader $where --jobs="$this_job" --format='%T %j')
    while read -r line; do
      state=${line%% *}
      [ "$line" != "$state $mine" ] || return 0
    done <<< "$lines"
  done
  return 1
}

killed_for_memory() {
  tail --bytes=+$((${began:-0} + 1)) "${element}_0_log.out" 2>/dev/null | tail --bytes=16384 |
    grep --quiet --extended-regexp {{killed}}
}

finish() {
  local code=$? said= try state where refused=0 ended= memory=
  local limit=${SLURM_MEM_PER_NODE:-${SLURM_MEM_PER_CPU:-0}}
  trap 'ended=1' TERM      # what asks Slurm here would die of it, and ignores it
  if [ -e "$word" ]; then
    said=$(cat "$word")
    rm -f "$word"
    [ "$said" != stop ] || exit $((code ? code : 1))
    said=${said:-again}   # an empty one was written on a full disk
  fi
  if [ "$said" = memory ] || { [ $code -ne 0 ] && killed_for_memory; }; then
    memory=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * ${SLURM_CPUS_ON_NODE:-1}))}
    # A run before this one had the same limit, where Slurm refused to raise the request.
    [ "$(cat "$element.memory" 2>/dev/null)" != "$memory" ] || raise=
    echo "$memory" > "$element.memory"
    if [ "$limit" -ge "${raise##*=}" ] 2>/dev/null || [ -z "$raise" ]; then
      raise=
      if [ -z "$said" ]; then
        echo "killed for its memory limit of $memory MiB of a node, and not requeued"
        exit $((code ? code : 1))
      fi
    fi
  elif [ -z "$said" ] && [ $code -ne 75 ] && { [ $code -le 128 ] || [ "${SLURM_RESTART_COUNT:-0}" -ge 20 ]; }; then
    exit $code
  fi
  for try in {1..24}; do   # while the controller does not answer: five minutes
    if ask_slurm; then
      # Any other state: it was cancelled, or its time is up, or Slurm puts it back by itself.
      [ "$state" = RUNNING ] || break
      ended=
      if (trap '' TERM; unset SLURM_CLUSTERS; exec scontrol $where requeue "$this_job"); then
        if [ "$memory" ] && [ "$raise" ]; then
          (trap '' TERM; unset SLURM_CLUSTERS; exec scontrol $where update job="$this_job" "$raise") &&
            echo "killed for its memory limit of $memory MiB of a node: requeued with $raise"
        fi
        trap - TERM
        [ "$ended" ] || sleep 600         # Slurm ends it within that time, or has told it already
        break
      fi
      [ $((++refused)) -lt 3 ] || break   # some clusters never do it
    fi
    sleep "$try"
  done
  exit 1   # what waits for this job's success must not start
}
trap finish EXIT
trap : TERM   # bash would die of it, and its ranks with it, before they have saved
