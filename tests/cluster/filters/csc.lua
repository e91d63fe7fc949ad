-- Jobs name a project and a partition. On the GPU side of Roihu they have a GPU, which brings its cores and memory.
local GPU_SIDE = {gputest = true, gpumedium = true, gpularge = true}

function rules(job)
   if job.account == nil then
      refuse("Project not specified: use --account=project_...")
   end
   if job.partition == nil then
      refuse("Partition not specified: use --partition")
   end
   if GPU_SIDE[job.partition] then
      if gpus(job) == 0 then
         refuse("Partition " .. job.partition .. " is for jobs with GPUs: use --gres=gpu:gh200:NUMBER")
      end
      if asks_for_memory(job) then
         refuse("Memory comes with each GPU in partition " .. job.partition .. ": remove --mem")
      end
   end
end
