-- Nodes are whole, with all memory: asking for all of it is an error.
function rules(job)
   if job.account == nil then
      refuse("No account specified: use --account")
   end
   if job.min_mem_per_node == 0 then
      refuse("--mem=0 is not allowed: jobs have all memory of their nodes")
   end
end
