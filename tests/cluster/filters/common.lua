-- What the rules of all centers use. `rules(job)` follows below; in it a field is nil where the user gave none.

-- Refuse a job with an explanation; sbatch prints each line, and then "Unspecified error".
function refuse(...)
   error({...}, 0)
end

-- The GPUs that a job asks for by any option, on each node or in all.
function gpus(job)
   for _, field in ipairs({"tres_per_node", "tres_per_socket", "tres_per_task", "tres_per_job"}) do
      local asked = job[field] or ""
      if asked:find("gpu") then
         return tonumber(asked:match("gpu.*[:=](%d+)")) or 1
      end
   end
   return 0
end

-- Whether a job asks for memory.
function asks_for_memory(job)
   return job.min_mem_per_node ~= nil or job.min_mem_per_cpu ~= nil or (job.mem_per_tres or "") ~= ""
end

-- Whether a job's constraint names a feature.
function constrained(job, feature)
   return ("," .. (job.features or ""):gsub("[&|()%[%]*]", ",") .. ","):find("," .. feature .. ",", 1, true) ~= nil
end

function hours(job)
   return job.time_limit == slurm.NO_VAL and 1 or job.time_limit / 60
end

function slurm_job_submit(job, partitions, user)
   local kept, why = pcall(rules, job)
   if kept then
      return slurm.SUCCESS
   end
   for _, line in ipairs(type(why) == "table" and why or {"the filter itself failed: " .. tostring(why)}) do
      slurm.log_user("%s", line)
   end
   return slurm.ERROR
end

function slurm_job_modify(job, record, partitions, user)
   return slurm.SUCCESS
end
