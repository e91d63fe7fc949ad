# What every job does once its work has ended: it goes back into the queue if the work says so.
#
# Stands before the template, whose last exit code it is given. What the ranks say is in a file of the
# submission's folder: "again" or "stop". Where no rank could write it, exit code 75 says "again", and one of
# a kill from outside, too; a run that gets nowhere again and again finds that out itself.
# Names in double braces are filled in, quoted already: write no quotes around them.
word={{submission}}/${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID.${SLURM_RESTART_COUNT:-0}.word
mine=$SLURM_JOB_NAME   # which tells this job from one with its number on another cluster

ask_slurm() {   # set `state`, and `where` for scontrol to ask the same controller; fail where none knows the job
  local lines line
  for where in '' ${SLURM_CLUSTER_NAME:+"--clusters=$SLURM_CLUSTER_NAME"}; do
    lines=$(trap '' TERM; unset SLURM_CLUSTERS; squeue --noheader $where --jobs="$job" --format='%T %j')
    while read -r line; do
      state=${line%% *}
      [ "$line" != "$state $mine" ] || return 0
    done <<< "$lines"
  done
  return 1
}

finish() {
  local code=$? said= try state where refused=0 ended=
  trap 'ended=1' TERM      # what asks Slurm here would die of it, and ignores it
  # Not SLURM_JOB_ID, which for one element of each array is the whole array's.
  local job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
  if [ -e "$word" ]; then
    said=$(cat "$word")
    rm -f "$word"
    [ "$said" != stop ] || exit $((code ? code : 1))   # an empty one was written on a full disk
  elif [ $code -ne 75 ] && { [ $code -le 128 ] || [ "${SLURM_RESTART_COUNT:-0}" -ge 20 ]; }; then
    exit $code
  fi
  for try in {1..24}; do   # while the controller does not answer: five minutes
    if ask_slurm; then
      # Any other state: it was cancelled, or its time is up, or Slurm puts it back by itself.
      [ "$state" = RUNNING ] || break
      ended=
      if (trap '' TERM; unset SLURM_CLUSTERS; exec scontrol $where requeue "$job"); then
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
