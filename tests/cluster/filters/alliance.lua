-- No partition is named: GPUs and hours choose it. A project has an account for CPUs and one for GPUs.
local LENGTHS = {3, 12, 24, 72, 168}  -- hours

function rules(job)
   if (job.work_dir or ""):find("^/home") then
      refuse("Submitting jobs from directories residing in /home is not permitted.",
             "Submit from a directory in /project or /scratch.")
   end
   if job.partition ~= nil then
      refuse("Do not specify a partition: the scheduler chooses one")
   end
   local kind = gpus(job) > 0 and "gpu" or "cpu"
   local account = job.account or job.default_account
   if not account:find("_[cg]pu$") then
      account = account .. "_" .. kind
   end
   if not account:find("_" .. kind .. "$") then
      refuse("Account " .. account .. " is not for jobs with" .. (kind == "cpu" and "out" or "") .. " GPUs")
   end
   job.account = account
   for number, most in ipairs(LENGTHS) do
      if hours(job) <= most then
         job.partition = (kind == "gpu" and "gpubase_bygpu_b" or "cpubase_bycore_b") .. number
         return
      end
   end
   refuse("The time limit is above the longest that is allowed, 7 days")
end
