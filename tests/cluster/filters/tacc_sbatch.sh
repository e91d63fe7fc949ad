#!/bin/bash
# The sbatch of TACC: checks on stdout before the job's id, where refusals are printed, too.
echo "
-----------------------------------------------------------------
          Welcome to the Vista Supercomputer
-----------------------------------------------------------------

No reservation for this job
--> Verifying valid submit host (login1)...OK
--> Verifying valid jobname...OK
--> Verifying valid ssh keys...OK
--> Verifying access to desired queue...OK
--> Checking available allocation...OK
--> Quotas are not currently enabled for filesystem /home1...OK"
said=$({sbatch} "$@" 2>&1)
ended=$?
echo "$said"
[ $ended -eq 0 ] || exit 1
