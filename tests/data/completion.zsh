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
