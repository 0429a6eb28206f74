"""The words and options of kubectl, docker, Slurm, Modal and Ray, with what Iris has instead.

A hint may contain these placeholders, which `hint_texts.py` replaces by what the user has typed:
* `{JOB}`: the first word after the command that can be the name of a job, without a kind such as `pod` or `job/`.
* `{PORTS}`: the pair of ports for `iris forward`, whose order is the reverse of kubectl and docker.
* `{VALUE}`: the value of the option.
* `{LOCAL}`: the first port in the value of docker's `-p`.
* `{TIME}`: the value as a time limit of Iris. The value may be a time of Slurm, such as `2:00:00`.
* `{MEMORY}`: the value as a size of Iris. The value may be a size of Slurm or docker, such as `4G`.
"""

from __future__ import annotations

from collections.abc import Mapping

_NO_IMAGES = (
    "Iris has no images: tasks use the environment of their worker, and get the current folder ('iris run --workspace')"
)
_NO_VOLUMES = (
    "Iris has no volumes: tasks use the disks of their machine, 'iris run --output DIR' stores the files of a task, and"
    " 'iris cp' copies files"
)
_NO_SECRETS = (
    "Iris stores no secrets apart from jobs: 'iris run -e NAME' passes a variable of this shell, and '--env-file FILE'"
    " the variables of a file"
)
_NO_SCALE = "the number of tasks of a job does not change: 'iris retry {JOB} --edit' submits it with other replicas"
_RESTART = "'iris retry {JOB}' submits an ended job again; 'iris kill --wait {JOB}' ends a job first"
_NODES = "'iris machines' shows the machines and the queue"
_PS = "'iris ps' lists jobs, and 'iris status JOB' shows tasks"
_LOGS = "'iris logs -f {JOB}' follows the lines of a job"
_TOP = "'iris top' shows the tasks that run, with their CPU, memory and GPUs"
_DESCRIBE = "'iris describe {JOB}' shows a job and what went wrong"
_KILL = "'iris kill {JOB}' ends a job, and 'iris rm {JOB}' removes an ended job"
_PRUNE = "'iris rm JOB' removes an ended job, and 'iris up --keep-jobs TIME' removes all jobs that ended long ago"
_FORWARD = "'iris forward {JOB} {PORTS}' reaches a port of a task; the port of the task comes first"

# The hint for each unknown command, of one or two words. The first word may also be a command of Iris; the hint is
# then shown if the command fails, for example because no job has the name `pods`.
COMMANDS: Mapping[str, str] = {
    **dict.fromkeys(("get", "jobs", "queue", "squeue", "app list", "status pods", "status jobs"), _PS),
    **dict.fromkeys(("pods", "containers", "container", "container list", "container ls"), _PS),
    **dict.fromkeys(("tasks", "task"), "'iris status {JOB}' shows each task of a job, and 'iris top' tasks that run"),
    **dict.fromkeys(("get nodes", "get node", "nodes", "workers", "sinfo", "top nodes", "top node", "gpus"), _NODES),
    **dict.fromkeys(
        ("stacks", "hang", "gdb", "pstack", "threads"),
        "'iris stack JOB' shows where all tasks of a job are, with identical stacks merged",
    ),
    **dict.fromkeys(
        ("py-spy", "pyspy", "perf", "flamegraph", "cprofile"),
        "'iris profile JOB' samples the stacks of all tasks, and 'iris stack JOB' shows them once",
    ),
    "get events": "'iris events' shows what has happened in the cluster",
    "scontrol": "'iris describe JOB' shows a job with its attempts, and 'iris events --job JOB' what happened to it",
    "get svc": "'iris endpoints' shows endpoints, and the ports of running tasks",
    "get services": "'iris endpoints' shows endpoints, and the ports of running tasks",
    **dict.fromkeys(
        ("submit", "sbatch", "launch", "spawn"), "'iris run -d -- COMMAND' submits a job without waiting for it"
    ),
    "start": "'iris run -d -- COMMAND' submits a job without waiting for it; 'iris retry {JOB}' submits a job again",
    **dict.fromkeys(
        ("srun", "map", "each", "array", "sweep"),
        "'iris run -- COMMAND' runs a job; --each and --array run it for many inputs",
    ),
    "salloc": "Iris gives no machines to a shell: 'iris run -n 4 --cpu 2 -- COMMAND' runs a job on reserved resources",
    **dict.fromkeys(("delete", "remove", "scancel", "app stop"), _KILL),
    **dict.fromkeys(("prune", "clean", "cleanup", "gc", "purge", "system prune", "container prune"), _PRUNE),
    **dict.fromkeys(("show", "info", "inspect", "describe pod", "describe job", "scontrol show"), _DESCRIBE),
    **dict.fromkeys(("tail", "follow", "app logs", "logs pod", "logs job"), _LOGS),
    **dict.fromkeys(("restart", "resubmit", "requeue", "scontrol requeue", "rollout", "rollout restart"), _RESTART),
    **dict.fromkeys(("rollout status",), "'iris status --watch {JOB}' shows each change of a job"),
    **dict.fromkeys(("scale", "resize"), _NO_SCALE),
    "autoscale": _NO_SCALE,
    **dict.fromkeys(("stats", "top pods", "top pod", "htop", "nvidia-smi"), _TOP),
    **dict.fromkeys(("dashboard", "ui", "open"), "'iris web' opens the page of the cluster in a browser"),
    **dict.fromkeys(("port-forward", "tunnel", "proxy"), _FORWARD),
    **dict.fromkeys(("port", "ports"), "'iris endpoints {JOB}' shows the ports of a job's running tasks"),
    **dict.fromkeys(
        ("ssh", "enter", "bash", "sh", "container exec"),
        "'iris shell {JOB}' opens a shell in a running task, and 'iris exec {JOB} -- COMMAND' runs a command there",
    ),
    **dict.fromkeys(
        ("apply", "create", "deploy", "serve"),
        "'iris run -f job.toml' runs a job file, and 'iris run -d -- COMMAND' starts a job that goes on",
    ),
    **dict.fromkeys(("image", "images", "build", "pull", "push", "rmi"), _NO_IMAGES),
    **dict.fromkeys(("volume", "volumes"), _NO_VOLUMES),
    **dict.fromkeys(("secret", "secrets"), _NO_SECRETS),
    "namespace": "Iris has no namespaces: 'iris ps --name PREFIX' and 'iris ps --owner NAME' select jobs",
    **dict.fromkeys(
        ("pause", "unpause", "suspend", "resume", "hold", "release"),
        "a running job cannot be paused: 'iris kill {JOB}' ends it, and 'iris retry {JOB}' submits it again",
    ),
    **dict.fromkeys(("scp", "rsync", "download", "upload", "fetch"), "'iris cp' copies files from and to a task"),
    **dict.fromkeys(
        ("artifacts", "artefacts", "results", "output"), "'iris outputs JOB' lists the files of 'iris run --output'"
    ),
    **dict.fromkeys(("history", "sacct"), "'iris ps --all' lists all jobs, also the ended ones"),
    "app": "'iris ps' lists jobs, 'iris logs -f JOB' follows a job, and 'iris kill JOB' ends it",
    "job": "the commands for jobs are 'iris run', 'iris ps', 'iris logs' and 'iris kill', without the word 'job'",
    "watch": "'iris status --watch' shows each change of a job, and 'iris ps --watch' of all jobs",
    "edit": "a job does not change; 'iris retry {JOB} --edit' changes a submission and submits it as a new job",
    **dict.fromkeys(("config", "cluster", "clusters", "profile list"), "'iris context' shows and chooses clusters"),
    **dict.fromkeys(
        ("whoami", "auth whoami", "cluster-info", "profile current"),
        "'iris context show' shows the cluster that commands call, and who you are there",
    ),
    **dict.fromkeys(
        ("auth", "setup", "token new"), "'iris login ADDRESS' saves the address and the token of a cluster"
    ),
    **dict.fromkeys(("health", "healthcheck", "check", "ping"), "'iris doctor' checks a cluster, and says what to do"),
    "metrics": (
        "'iris top' shows what the running tasks use, and 'iris machines' the machines; Prometheus reads /metrics of"
        " the controller, which 'iris up --metrics-port PORT' serves without a token"
    ),
    "version": "'iris --version' shows the version",
}

_NO_TERMINAL = (
    "tasks have no terminal; a job of one task reads the standard input of 'iris run', which needs no option for it;"
    " 'iris shell JOB' opens a shell with a terminal in a running task"
)
_JSON = "use '--json'; a table is not cut in a pipe"
_NO_NAMESPACES = "Iris has no namespaces"
_QUIET = "use \"iris ps --json | jq -r '.jobs[].job_id'\""
_MORE_LINES = "use '--tail {VALUE}'"
_PREVIOUS = "use '--attempt N': attempts count from 0, and without the option all attempts are shown"
_SIGNAL = "'iris kill' sends SIGTERM, and SIGKILL 10 s later; no other signal can be sent"
# The commands in `_TASKS` accept a task, as JOB/task-N.
_TASKS = ("exec", "shell", "stack", "profile", "describe", "forward")
ANY = ""  # In a key of `OPTIONS`, this text instead of a command's name stands for all commands.

# The hint for each unknown option, by the command of Iris and the option.
OPTIONS: Mapping[tuple[str, str], str] = {
    **dict.fromkeys([("run", option) for option in ("-i", "--interactive", "--stdin", "--tty", "--pty")], _NO_TERMINAL),
    ("run", "-t"): f"a time limit is '--timeout'; {_NO_TERMINAL}",
    **dict.fromkeys(
        [("run", option) for option in ("-p", "--publish", "--expose")],
        "a port is requested by name: '--port web' reserves a free port and passes its number in IRIS_PORT_WEB, and"
        " 'iris forward JOB web:{LOCAL}' reaches it from this machine",
    ),
    **dict.fromkeys(
        [("run", option) for option in ("--ntasks", "--tasks", "--num-tasks", "--completions")],
        "use '-n {VALUE}' ('--replicas')",
    ),
    **dict.fromkeys(
        [("run", option) for option in ("-N", "--nodes")],
        "use '-n {VALUE} --spread', which gives each task a machine of its own",
    ),
    **dict.fromkeys(
        [("run", option) for option in ("-c", "--cpus", "--cpus-per-task", "--num-cpus")], "use '--cpu {VALUE}'"
    ),
    **dict.fromkeys(
        [("run", option) for option in ("-m", "--mem", "--mem-per-cpu")], "use '--memory {MEMORY}', for each task"
    ),
    **dict.fromkeys(
        [("run", option) for option in ("--gpus", "--gres", "--gpus-per-task", "-G", "--num-gpus")],
        "use '--gpu N', the number of GPUs for each task",
    ),
    ("run", "--time"): "use '--timeout {TIME}' for each attempt, or '--job-timeout {TIME}' for the job",
    ("run", "--rm"): "an ended job stays until retention removes it: leave the option out; 'iris rm JOB' removes a job",
    **dict.fromkeys([("run", option) for option in ("-J", "--job-name")], "use '--name {VALUE}'"),
    **dict.fromkeys([("run", option) for option in ("-v", "--volume", "--mount")], _NO_VOLUMES),
    **dict.fromkeys(
        [("run", option) for option in ("-w", "--workdir", "--cwd", "-D", "--chdir", "--working-dir")],
        "use '--workspace {VALUE}', or change to the directory first",
    ),
    **dict.fromkeys([("run", option) for option in ("--image",)], _NO_IMAGES),
    **dict.fromkeys(
        [("run", option) for option in ("--restart", "--requeue", "--backoff-limit")],
        "use '--retries N' for failures; a task of a lost worker is always retried",
    ),
    **dict.fromkeys(
        [("run", option) for option in ("--dependency", "--depends-on")], "use '--after JOB', or '--after JOB:any'"
    ),
    **dict.fromkeys([("run", option) for option in ("--retry", "--max-retries")], "use '--retries {VALUE}'"),
    **dict.fromkeys(
        [("run", option) for option in ("--parallel", "--parallelism", "--concurrency", "--max-concurrency")],
        "use '--max-parallel {VALUE}', with '--independent', '--each' or '--array'",
    ),
    ("run", "--workers"): "use '-n {VALUE}' for tasks, or '--max-parallel {VALUE}' for how many run at the same time",
    ("run", "--exclusive"): "use '--spread', which gives each task a machine of its own, and '--cpu N'",
    **dict.fromkeys(
        [("run", option) for option in ("--priority", "--nice", "--qos")],
        "Iris has no priorities: the queue is in the order of submission",
    ),
    **dict.fromkeys(
        [("run", option) for option in ("--label", "-l", "--labels", "--tag", "--comment")],
        "jobs have no labels: '--name NAME' names a job, and patterns such as 'sweep-*' select jobs by name",
    ),
    **dict.fromkeys(
        [("run", option) for option in ("--region", "--zone", "--nodelist", "--node-selector", "--cloud", "-C")],
        "use '--constraint KEY=VALUE', which chooses machines by label",
    ),
    **dict.fromkeys([("run", option) for option in ("--secret", "--secrets")], "use '--env NAME' or '--env-file FILE'"),
    **dict.fromkeys(
        [("run", option) for option in ("--follow", "--wait", "--attach")],
        "leave the option out: 'iris run' shows the lines and waits, unless '--detach' is given",
    ),
    **dict.fromkeys(
        [("run", option) for option in ("--background", "--bg", "--no-wait", "--async", "--detached")],
        "use '--detach'",
    ),
    ("run", "--dry-run"): "use '--save FILE', which checks the options, writes a job file, and runs nothing",
    **dict.fromkeys([("run", option) for option in ("-q", "--quiet")], "use '2>/dev/null', or '--detach'"),
    ("run", "--deadline"): "use '--job-timeout {TIME}'",
    ("run", "--signal"): "use '--timeout-warning 60s' with '--timeout', which sends SIGUSR1",
    **dict.fromkeys(
        [("run", option) for option in ("--partition", "--queue")],
        "Iris has one queue: '--constraint KEY=VALUE' chooses machines by label",
    ),
    **dict.fromkeys([("run", option) for option in ("-o", "--stdout")], "'iris logs JOB' shows the lines of the tasks"),
    **dict.fromkeys([("ps", option) for option in ("-A", "--all-namespaces")], "use '--all' to show all jobs"),
    **dict.fromkeys([("ps", option) for option in ("-q", "--quiet")], _QUIET),
    **dict.fromkeys([("ps", option) for option in ("-u", "--user")], "use '--owner {VALUE}'"),
    **dict.fromkeys([("ps", option) for option in ("-l", "--selector", "--filter", "-f")], "use '--name' or '--state'"),
    **dict.fromkeys([("logs", option) for option in ("--previous", "-p")], _PREVIOUS),
    **dict.fromkeys([("logs", option) for option in ("-n", "--lines")], _MORE_LINES),
    **dict.fromkeys([("logs", option) for option in ("-t",)], "use '--timestamps'"),
    **dict.fromkeys(
        [("logs", option) for option in ("-c", "--container", "--all-containers")],
        "the lines of all tasks are shown; '--task N' shows one task",
    ),
    **dict.fromkeys(
        [("logs", option) for option in ("-l", "--selector")], "give several jobs, or a pattern such as 'sweep-*'"
    ),
    ("wait", "--for"): "leave the option out: 'iris wait' waits for the end, and exits with the code of the job",
    ("wait", "--all"): "leave the option out: 'iris wait' waits for all given jobs unless '--any' is given",
    **dict.fromkeys([("events", option) for option in ("--limit", "--last")], "use '--tail {VALUE}'"),
    **dict.fromkeys([("kill", option) for option in ("-9", "-s", "--signal", "--grace-period", "--force")], _SIGNAL),
    **dict.fromkeys(
        [("rm", option) for option in ("-f", "--force")],
        "'iris rm' removes ended jobs; 'iris kill JOB' ends a job first",
    ),
    **dict.fromkeys(
        [("cp", option) for option in ("-r", "-a", "-R", "--recursive")],
        "leave the option out: 'iris cp' copies a directory with all its contents",
    ),
    ("top", "--no-stream"): "use '--once'",
    **{(command, "--task"): f"name the task: 'iris {command} JOB/task-{{VALUE}}'" for command in _TASKS},
    **{
        (command, option): f"a task has no containers: 'iris {command} JOB/task-N' names one of several tasks"
        for command in ("exec", "shell")
        for option in ("-c", "--container")
    },
    **dict.fromkeys([("profile", option) for option in ("-d", "--seconds", "--time")], "use '--duration {VALUE}'"),
    ("run", "--export"): (
        "on a cluster on this machine, tasks get all variables of this shell; on other clusters only variables that you"
        " name: use '--env NAME', or '--env-file'"
    ),
    ("run", "-a"): "use '--array {VALUE}'",
    **dict.fromkeys([(ANY, option) for option in ("-o", "--output", "--format")], _JSON),
    **dict.fromkeys([(ANY, option) for option in ("--namespace",)], _NO_NAMESPACES),
}

# Words that a user of kubectl types before a name, as in `pod NAME` or `pod/NAME`. They are not names of jobs.
KINDS = frozenset(
    (
        *("pod", "pods", "po", "job", "jobs", "deployment", "deployments", "deploy", "service", "services", "svc"),
        *("statefulset", "sts", "node", "nodes"),
    )
)
