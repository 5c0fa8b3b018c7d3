#compdef orlop
# zsh completion of orlop
_orlop_containers() {
	local -a ids root
	[[ -n ${opt_args[--root]} ]] && root=(--root ${opt_args[--root]})
	ids=(${(f)"$(orlop $root list -q 2>/dev/null)"})
	compadd -a ids
}
_orlop() {
	local curcontext=$curcontext state line
	typeset -A opt_args
	_arguments -C \
			'--root[keep the containers'\'' state below this directory, which should be a tmpfs (default\: /run/orlop, or $XDG_RUNTIME_DIR/orlop when not root)]:dir:_files -/' \
			'--log[append errors to this file (default\: stderr)]:file:_files' \
			'--log-format[how a line of the log looks\: text or json (default\: text)]:value:(text json)' \
			'--debug[log warnings and debugging lines too]' \
			'--systemd-cgroup[the same as --cgroup-manager systemd; cgroupsPath is then slice\:prefix\:name]' \
			'--cgroup-manager[who makes the container'\''s cgroup\: cgroupfs, systemd or disabled (default\: cgroupfs)]:value:(cgroupfs systemd disabled)' \
			'--rootless[forgive cgroup permission errors\: auto, true or false (default\: auto)]:value:(auto true false)' \
			'--help[show this help]' \
			'-h[show this help]' \
			'--version[print the version]' \
			'-v[print the version]' \
			'1:command:->command' '*::argument:->argument'
	case $state in
	command)
		local -a commands
		commands=(
			'create:create a container'
			'start:let the process of a created container begin'
			'run:create a container, start it and wait for it'
			'exec:run another process in a running container'
			'state:print the state of a container as JSON'
			'kill:send a signal to a container'
			'delete:delete a container and what it holds'
			'pause:stop all processes of a container for a while'
			'resume:let a paused container go on'
			'update:change the limits of a container'
			'ps:list the processes of a container'
			'events:show what a container uses, and when it has too little memory'
			'list:list the containers'
			'spec:write a config.json to begin with'
			'features:print what this runtime can do as JSON'
			'help:show the help of a command'
		)
		_describe command commands ;;
	argument)
		case $words[1] in
		create)
			_arguments \
			'--bundle[the bundle (default\: the current directory)]:dir:_files -/' \
			'-b[the bundle (default\: the current directory)]:dir:_files -/' \
			'--config[the configuration (default\: config.json in the bundle)]:file:_files' \
			'-f[the configuration (default\: config.json in the bundle)]:file:_files' \
			'--console-socket[send the master end of the process'\'' terminal to this unix socket]:file:_files' \
			'--pidfd-socket[send a pidfd of the process to this unix socket]:file:_files' \
			'--pid-file[write the process id to this file]:file:_files' \
			'--no-pivot[move the root file system over / instead of pivoting, for a root on the initial ramdisk; it is less safe]' \
			'--no-new-keyring[let the container have the caller'\''s session keyring instead of a new one]' \
			'--preserve-fds[let the process inherit this many file descriptors after stdio and $LISTEN_FDS (default\: 0)]:n: ' \
			'--help[show this help]' \
			'-h[show this help]' ;;
		start)
			_arguments \
			'--help[show this help]' \
			'-h[show this help]' \
			'1:container:_orlop_containers' ;;
		run)
			_arguments \
			'--bundle[the bundle (default\: the current directory)]:dir:_files -/' \
			'-b[the bundle (default\: the current directory)]:dir:_files -/' \
			'--config[the configuration (default\: config.json in the bundle)]:file:_files' \
			'-f[the configuration (default\: config.json in the bundle)]:file:_files' \
			'--detach[return as soon as the process runs]' \
			'-d[return as soon as the process runs]' \
			'--keep[do not delete the container when it has ended]' \
			'--console-socket[send the master end of the process'\'' terminal to this unix socket]:file:_files' \
			'--pidfd-socket[send a pidfd of the process to this unix socket]:file:_files' \
			'--pid-file[write the process id to this file]:file:_files' \
			'--no-subreaper[do not adopt and reap the container'\''s orphans]' \
			'--no-pivot[move the root file system over / instead of pivoting, for a root on the initial ramdisk; it is less safe]' \
			'--no-new-keyring[let the container have the caller'\''s session keyring instead of a new one]' \
			'--preserve-fds[let the process inherit this many file descriptors after stdio and $LISTEN_FDS (default\: 0)]:n: ' \
			'--help[show this help]' \
			'-h[show this help]' ;;
		exec)
			_arguments \
			'--process[run the process that this JSON file describes]:file:_files' \
			'-p[run the process that this JSON file describes]:file:_files' \
			'--tty[give the process a terminal]' \
			'-t[give the process a terminal]' \
			'--cwd[the working directory in the container]:dir: ' \
			'*--env[add to the environment; repeatable]:name=value: ' \
			'*-e[add to the environment; repeatable]:name=value: ' \
			'--user[run as this user]:uid\[\:gid\]: ' \
			'-u[run as this user]:uid\[\:gid\]: ' \
			'*--additional-gids[add a supplementary group; repeatable]:gid: ' \
			'*-g[add a supplementary group; repeatable]:gid: ' \
			'*--cap[add a capability, such as CAP_SYS_PTRACE; repeatable]:capability: ' \
			'*-c[add a capability, such as CAP_SYS_PTRACE; repeatable]:capability: ' \
			'--no-new-privs[let the process gain no privileges by execve]' \
			'--apparmor[confine the process by this AppArmor profile]:profile: ' \
			'--process-label[give the process this SELinux label]:label: ' \
			'--detach[return as soon as the process runs]' \
			'-d[return as soon as the process runs]' \
			'--console-socket[send the master end of the process'\'' terminal to this unix socket]:file:_files' \
			'--pidfd-socket[send a pidfd of the process to this unix socket]:file:_files' \
			'--pid-file[write the process id to this file]:file:_files' \
			'--preserve-fds[let the process inherit this many file descriptors after stdio and $LISTEN_FDS (default\: 0)]:n: ' \
			'*--cgroup[run in this existing cgroup below the container'\''s; with cgroup v1 once per controller]:\[controller\:\]path: ' \
			'--ignore-paused[also into a paused container\: the process starts when it is resumed]' \
			'--help[show this help]' \
			'-h[show this help]' \
			'1:container:_orlop_containers' \
			'*::command: ' ;;
		state)
			_arguments \
			'--help[show this help]' \
			'-h[show this help]' \
			'1:container:_orlop_containers' ;;
		kill)
			_arguments \
			'--all[signal every process of the container]' \
			'-a[signal every process of the container]' \
			'--help[show this help]' \
			'-h[show this help]' \
			'1:container:_orlop_containers' \
			'2:signal:(HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS)' ;;
		delete)
			_arguments \
			'--force[kill the container first if it runs; one that does not exist is no error]' \
			'-f[kill the container first if it runs; one that does not exist is no error]' \
			'--help[show this help]' \
			'-h[show this help]' \
			'1:container:_orlop_containers' ;;
		pause)
			_arguments \
			'--help[show this help]' \
			'-h[show this help]' \
			'1:container:_orlop_containers' ;;
		resume)
			_arguments \
			'--help[show this help]' \
			'-h[show this help]' \
			'1:container:_orlop_containers' ;;
		update)
			_arguments \
			'--resources[read the limits from this JSON file, or from stdin if it is -; the options below don'\''t matter then]:file:_files' \
			'-r[read the limits from this JSON file, or from stdin if it is -; the options below don'\''t matter then]:file:_files' \
			'--memory[most memory, such as 512m; -1 is unlimited]:size: ' \
			'--memory-reservation[memory that is reclaimed last]:size: ' \
			'--memory-swap[most memory and swap together; -1 is unlimited]:size: ' \
			'--cpu-share[share of the processors'\'' time, relative to other containers'\'']:n: ' \
			'--cpu-quota[most processor time in each period, in microseconds; -1 is unlimited]:us: ' \
			'--cpu-period[the period, in microseconds]:us: ' \
			'--cpu-burst[unused time that may be kept for a later period, in microseconds]:us: ' \
			'--cpu-idle[1\: run only when nothing else wants to; 0\: as usual]:0|1: ' \
			'--cpu-rt-runtime[most real-time processor time in each period; cgroup v1 only]:us: ' \
			'--cpu-rt-period[the period of --cpu-rt-runtime; cgroup v1 only]:us: ' \
			'--cpuset-cpus[processors to run on, such as 0-3,7]:list: ' \
			'--cpuset-mems[memory nodes to use, such as 0]:list: ' \
			'--blkio-weight[share of the disks'\'' time, from 10 to 1000]:n: ' \
			'--pids-limit[most processes and threads; -1 is unlimited]:n: ' \
			'--help[show this help]' \
			'-h[show this help]' \
			'1:container:_orlop_containers' ;;
		ps)
			_arguments \
			'--format[table or json (default\: table)]:value:(table json)' \
			'-f[table or json (default\: table)]:value:(table json)' \
			'--help[show this help]' \
			'-h[show this help]' \
			'1:container:_orlop_containers' \
			'*::command: ' ;;
		events)
			_arguments \
			'--interval[how often the statistics are printed, such as 500ms or 1m (default\: 5s)]:time: ' \
			'--stats[print the statistics once, and no more]' \
			'--help[show this help]' \
			'-h[show this help]' \
			'1:container:_orlop_containers' ;;
		list)
			_arguments \
			'--format[table or json (default\: table)]:value:(table json)' \
			'-f[table or json (default\: table)]:value:(table json)' \
			'--quiet[print only the container ids]' \
			'-q[print only the container ids]' \
			'--help[show this help]' \
			'-h[show this help]' ;;
		spec)
			_arguments \
			'--bundle[the bundle (default\: the current directory)]:dir:_files -/' \
			'-b[the bundle (default\: the current directory)]:dir:_files -/' \
			'--rootless[write a configuration for a container of the calling user, without root'\''s rights]' \
			'--help[show this help]' \
			'-h[show this help]' ;;
		features)
			_arguments \
			'--help[show this help]' \
			'-h[show this help]' ;;
		esac ;;
	esac
}
_orlop "$@"
