"""The habits of centers, in small: from their public documentation and users' scripts of 2024 to 2026.

Each set imitates what its comment says; what it does not name is Slurm's default. Node sizes, names of
partitions, QOS and limits are the centers', the number of nodes is not. No center takes part in this.
"""

from __future__ import annotations

from cluster.habits import Account, Habits, Nodes, Partition, Qos

STRICT = "EnforcePartLimits=ALL\n"  # jobs beyond a partition's limits are refused, not kept waiting
# 1 GB a core for jobs that ask for no memory, where a partition gives no other default; no preemption.
USUAL = STRICT + "DefMemPerCPU=1000\nPreemptType=preempt/none\nPreemptMode=OFF\n"


def of(name: str) -> Habits:
    """The habits of a center.

    Raises:
        ValueError: there are none of that name.
    """
    if name not in CENTERS:
        raise ValueError(f"no habits of '{name}': there are {', '.join(CENTERS)}")
    return CENTERS[name]


# GPUs by constraint, which a filter turns into the partition; the default partition has no GPUs. An account
# for each kind of node, a QOS for each length of job, and a free partition for preparation.
JEAN_ZAY = Habits(
    nodes=(
        Nodes(2, cpus=96, memory=468_000, gpus=4, gpu="h100", features="h100"),
        Nodes(1, cpus=40, memory=160_000, gpus=4, gpu="v100", features="v100"),
        Nodes(1, cpus=80, threads=2, memory=160_000, features="cpu"),
    ),
    partitions=(
        Partition("cpu_p1", "n4", "Default=YES MaxTime=100:00:00 DefaultTime=10"),
        Partition("gpu_p13", "n3", "MaxTime=100:00:00 DefaultTime=10"),
        Partition("gpu_p6", "n[1-2]", "MaxTime=100:00:00 DefaultTime=10"),
        Partition("prepost", "n4", "MaxTime=20:00:00 DefaultTime=2:00:00"),
    ),
    accounts=(
        Account("abc@cpu", "QOS=qos_cpu-t3,qos_gpu_h100-t3"),
        Account("abc@v100", "QOS=qos_gpu-t3"),
        Account("abc@h100", "QOS=qos_gpu_h100-dev,qos_gpu_h100-t3,qos_gpu_h100-t4,qos_cpu-t3"),
    ),
    account="abc@h100",
    qos=(
        Qos("qos_cpu-t3,qos_gpu-t3,qos_gpu_h100-t3", "MaxWall=20:00:00 Flags=DenyOnLimit"),
        Qos("qos_gpu_h100-dev", "MaxWall=2:00:00 MaxSubmitJobsPerUser=10 Flags=DenyOnLimit"),
        Qos("qos_gpu_h100-t4", "MaxWall=100:00:00 Flags=DenyOnLimit"),
    ),
    filter="jean-zay",
    extra=USUAL,
)

# Accounts with capitals, as users see and type them, which Slurm keeps in lower case. The default partition
# is the one for small serial jobs: free, 4 hours, 4 cores, no GPUs. A longer QOS overrides the partition's
# limit.
LEONARDO = Habits(
    nodes=(
        Nodes(2, cpus=32, memory=494_000, gpus=4, gpu="a100"),
        Nodes(1, cpus=64, memory=494_000),
    ),
    partitions=(
        Partition("lrd_all_serial", "n3", "Default=YES MaxTime=4:00:00 MaxCPUsPerNode=4 MaxMemPerNode=30800"),
        Partition("boost_usr_prod", "n[1-2]", "MaxTime=1-0 DefaultTime=30"),
    ),
    accounts=(Account("EUHPC_D12_345", "QOS=normal,boost_qos_dbg,boost_qos_lprod", ("MaxSubmitJobs=1000",)),),
    account="EUHPC_D12_345",
    qos=(
        Qos("boost_qos_dbg", "MaxWall=30 MaxTRESPerJob=node=2 Flags=DenyOnLimit"),
        Qos("boost_qos_lprod", "MaxWall=4-0 MaxTRESPerJob=node=3 Flags=DenyOnLimit,PartitionTimeLimit"),
    ),
    extra=USUAL,
)

# No default partition; the user's rights and limits are given for each partition, of which some are very
# small. Whole nodes, or parts of them with 64 GB for any number of GPUs.
LUMI = Habits(
    nodes=(
        Nodes(2, cpus=56, memory=480_000, gpus=8, gpu="mi250"),
        Nodes(1, cpus=128, memory=224_000),
    ),
    partitions=(
        Partition("standard-g", "n[1-2]", "MaxTime=2-0 OverSubscribe=EXCLUSIVE DefMemPerNode=480000"),
        Partition("small-g", "n[1-2]", "MaxTime=3-0 MaxNodes=4 DefMemPerNode=65536"),
        Partition("dev-g", "n[1-2]", "MaxTime=2:00:00 DefMemPerNode=65536"),
        Partition("small", "n3", "MaxTime=3-0 MaxNodes=4"),
        Partition("debug", "n3", "MaxTime=30"),
    ),
    accounts=(
        Account(
            "project_465000001",
            rows=(
                "Partition=standard-g,small-g MaxJobs=200 MaxSubmitJobs=210",
                "Partition=small MaxJobs=200 MaxSubmitJobs=220",
                "Partition=dev-g,debug MaxJobs=1 MaxSubmitJobs=2",
            ),
        ),
    ),
    account="project_465000001",
    filter="csc",
    extra=USUAL,
)

# No default partition, and none may be named: constraint and QOS choose it. GPU jobs are charged to another
# account than the one that users name. `regular` allocates whole nodes, `shared` 1 or 2 GPUs without memory.
PERLMUTTER = Habits(
    nodes=(
        Nodes(2, cpus=128, threads=2, memory=245_000, gpus=4, gpu="a100", features="gpu,a100,hbm40g"),
        Nodes(1, cpus=256, threads=2, memory=490_000, features="cpu"),
    ),
    partitions=(
        Partition("gpu_ss11", "n[1-2]", "MaxTime=2-0 OverSubscribe=EXCLUSIVE DefMemPerNode=229000"),
        Partition("shared_gpu_ss11", "n[1-2]", "MaxTime=2-0 DefMemPerGPU=57000"),
        Partition("cpu_ss11", "n3", "MaxTime=2-0 OverSubscribe=EXCLUSIVE DefMemPerNode=490000"),
        Partition("shared_cpu_ss11", "n3", "MaxTime=2-0 DefMemPerCPU=1900"),
    ),
    accounts=(
        Account("m1234", "QOS=cpu_debug,cpu_regular,cpu_shared DefaultQOS=cpu_debug"),
        Account("m1234_g", "QOS=gpu_debug,gpu_regular,gpu_shared DefaultQOS=gpu_debug"),
    ),
    account="m1234",
    qos=(
        Qos("cpu_debug,gpu_debug", "MaxWall=30 MaxSubmitJobsPerUser=5 MaxJobsPerUser=2 Flags=DenyOnLimit"),
        Qos(
            "cpu_regular,cpu_shared,gpu_regular,gpu_shared",
            "MaxWall=2-0 MaxSubmitJobsPerUser=5000 Flags=DenyOnLimit",
        ),
    ),
    filter="perlmutter",
    extra=USUAL,
)

# A CPU side and a GPU side, where a job has to have a GPU and must not ask for memory. Rights are given for
# each partition: there is none for gpularge, which needs an application.
ROIHU = Habits(
    nodes=(
        Nodes(2, cpus=288, memory=868_000, gpus=4, gpu="gh200"),
        Nodes(1, cpus=384, memory=700_000),
    ),
    partitions=(
        Partition("gputest", "n[1-2]", "MaxTime=15 MaxNodes=1 DefMemPerGPU=217000"),
        Partition("gpumedium", "n[1-2]", "MaxTime=36:00:00 MaxNodes=1 DefMemPerGPU=217000"),
        Partition("gpularge", "n[1-2]", "MaxTime=36:00:00 MaxNodes=10 DefMemPerGPU=217000"),
        Partition("small", "n3", "MaxTime=3-0 MaxNodes=1"),
        Partition("test", "n3", "MaxTime=15"),
    ),
    accounts=(
        Account(
            "project_2001234",
            rows=(
                "Partition=gputest,test MaxJobs=1 MaxSubmitJobs=2",
                "Partition=gpumedium,small MaxJobs=200 MaxSubmitJobs=400",
            ),
        ),
    ),
    account="project_2001234",
    filter="csc",
    extra=USUAL,
)

# A QOS has to be named, and chooses the partition. Memory comes with the cores.
MARENOSTRUM5 = Habits(
    nodes=(
        Nodes(2, cpus=80, memory=500_000, gpus=4, gpu="hopper"),
        Nodes(1, cpus=112, memory=250_000),
    ),
    partitions=(
        Partition("gpp", "n3", "Default=YES MaxTime=3-0 DefMemPerCPU=2000"),
        Partition("acc", "n[1-2]", "MaxTime=3-0 DefMemPerCPU=6000"),
    ),
    accounts=(Account("ehpc123", "QOS=acc_ehpc,acc_debug,gp_ehpc,gp_debug"),),
    account="ehpc123",
    qos=(
        Qos("acc_ehpc,gp_ehpc", "MaxWall=3-0 MaxSubmitJobsPerUser=366 Flags=DenyOnLimit"),
        Qos("acc_debug,gp_debug", "MaxWall=2:00:00 MaxJobsPerUser=1 MaxTRESPerJob=node=8 Flags=DenyOnLimit"),
    ),
    filter="marenostrum5",
    extra=USUAL,
)

# sbatch is a program of the center's: lines before the id, refusals on stdout. GPUs are no GRES, one a node,
# nodes are whole, and no option may ask for GPUs or memory. Partitions limit jobs by QOS of their own. Jobs
# do not submit jobs.
VISTA = Habits(
    nodes=(Nodes(3, cpus=72, memory=230_000), Nodes(1, cpus=144, memory=230_000)),
    partitions=(
        Partition(
            "gg", "n4", "Default=YES MaxTime=2-0 OverSubscribe=EXCLUSIVE QOS=vista_gg DefMemPerNode=230000"
        ),
        Partition("gh", "n[1-3]", "MaxTime=2-0 OverSubscribe=EXCLUSIVE QOS=vista_gh DefMemPerNode=230000"),
        Partition(
            "gh-dev",
            "n[1-3]",
            "MaxTime=2:00:00 OverSubscribe=EXCLUSIVE QOS=vista_gh-dev DefMemPerNode=230000",
        ),
    ),
    accounts=(Account("ASC24001"),),
    account="ASC24001",
    qos=(
        Qos("vista_gg,vista_gh", "MaxSubmitJobsPerUser=40 MaxJobsPerUser=20 Flags=DenyOnLimit"),
        Qos("vista_gh-dev", "MaxSubmitJobsPerUser=3 MaxJobsPerUser=1 Flags=DenyOnLimit"),
    ),
    filter="vista",
    wrapper="tacc_sbatch.sh",
    extra=USUAL,
)

# Slices of nodes, which a filter rounds up to; few jobs; every submission is commented on by lines on stderr.
SNELLIUS = Habits(
    nodes=(
        Nodes(2, cpus=64, memory=737_280, gpus=4, gpu="h100"),
        Nodes(1, cpus=128, memory=229_376),
    ),
    partitions=(
        Partition("rome", "n3", "Default=YES MaxTime=5-0 DefMemPerCPU=1792"),
        Partition("gpu_h100", "n[1-2]", "MaxTime=5-0 DefMemPerCPU=11520"),
    ),
    accounts=(Account("tes12345", rows=("MaxSubmitJobs=30",)),),
    account="tes12345",
    filter="snellius",
    extra=USUAL,
)

# Preemption without notice, partitions whose own QOS limits what a user has, 1,000 jobs, arrays of as many.
MILA = Habits(
    nodes=(
        Nodes(2, cpus=64, memory=1_000_000, gpus=4, gpu="a100l", features="ampere,80gb"),
        Nodes(1, cpus=64, memory=250_000),
    ),
    partitions=(
        Partition("long", "n[1-2]", "Default=YES MaxTime=7-0 PriorityTier=1 PreemptMode=REQUEUE GraceTime=0"),
        Partition("long-cpu", "n3", "MaxTime=7-0 PriorityTier=1 PreemptMode=REQUEUE GraceTime=0"),
        Partition("main", "n[1-2]", "MaxTime=5-0 PriorityTier=2 PreemptMode=OFF QOS=mila_main"),
        Partition("unkillable", "n[1-2]", "MaxTime=2-0 PriorityTier=3 PreemptMode=OFF QOS=mila_unkillable"),
    ),
    accounts=(Account("mila", rows=("MaxSubmitJobs=1000",)),),
    account="mila",
    qos=(
        Qos("mila_main", "MaxTRESPerUser=cpu=8,gres/gpu=2,mem=48G"),
        Qos("mila_unkillable", "MaxTRESPerUser=cpu=6,gres/gpu=1,mem=32G MaxSubmitJobsPerUser=2"),
    ),
    extra=STRICT + "DefMemPerCPU=1000\nMaxArraySize=1001\n",
)

# No partition is named: GPUs and hours choose it, and the account's suffix. Submitting from /home is refused,
# and jobs that ask for no memory have 256 MB a core.
ALLIANCE = Habits(
    nodes=(
        Nodes(2, cpus=48, memory=1_150_000, gpus=4, gpu="h100"),
        Nodes(1, cpus=192, memory=750_000),
    ),
    partitions=(
        Partition("cpubase_interac", "n3", "Default=YES MaxTime=6:00:00"),
        *(
            Partition(f"cpubase_bycore_b{i}", "n3", f"MaxTime={h}:00:00")
            for i, h in enumerate((3, 12, 24, 72, 168), 1)
        ),
        *(
            Partition(f"gpubase_bygpu_b{i}", "n[1-2]", f"MaxTime={h}:00:00")
            for i, h in enumerate((3, 12, 24, 72, 168), 1)
        ),
    ),
    accounts=(
        Account("def-prof_cpu", rows=("MaxSubmitJobs=1000",)),
        Account("def-prof_gpu", rows=("MaxSubmitJobs=1000",)),
    ),
    account="def-prof",
    filter="alliance",
    extra=USUAL.replace("1000", "256"),
)

# One partition of nodes with four GPUs, shared: at most a day and, by its own QOS, 32 GPUs of a user.
ISAMBARD = Habits(
    nodes=(Nodes(3, cpus=288, memory=868_000, gpus=4, gpu="gh200"),),
    partitions=(Partition("workq", "ALL", "Default=YES MaxTime=1-0 DefMemPerGPU=115000 QOS=workq_qos"),),
    accounts=(Account("brics.u5x", rows=("MaxSubmitJobs=1000",)),),
    account="brics.u5x",
    qos=(Qos("workq_qos", "MaxTRESPerUser=gres/gpu=32"),),
    extra=USUAL,
)

# Whole nodes with four GPUs and all memory, of which --mem=0 must not be said; at most 12 hours.
CLARIDEN = Habits(
    nodes=(Nodes(3, cpus=288, memory=868_000, gpus=4, gpu="gh200"),),
    partitions=(
        Partition(
            "normal", "ALL", "Default=YES MaxTime=12:00:00 OverSubscribe=EXCLUSIVE DefMemPerNode=868000"
        ),
        Partition("debug", "n3", "MaxTime=1:30:00 MaxNodes=2 OverSubscribe=EXCLUSIVE DefMemPerNode=868000"),
    ),
    accounts=(Account("a123"),),
    account="a123",
    filter="alps-clariden",
    extra=USUAL,
)

CENTERS = {
    "jean-zay": JEAN_ZAY,
    "leonardo": LEONARDO,
    "lumi": LUMI,
    "perlmutter": PERLMUTTER,
    "roihu": ROIHU,
    "marenostrum5": MARENOSTRUM5,
    "vista": VISTA,
    "snellius": SNELLIUS,
    "mila": MILA,
    "alliance": ALLIANCE,
    "isambard-ai": ISAMBARD,
    "alps-clariden": CLARIDEN,
}
