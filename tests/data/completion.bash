# bash completion of orlop
_orlop() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
	local command= flags= first= values= root=() i id=0
	COMPREPLY=()
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--root) root=(--root "${COMP_WORDS[i+1]}"); ((i++)) ;;
		--root|--log|--log-format|--cgroup-manager|--rootless) ((i++)) ;;
		-*) ;;
		*) command=${COMP_WORDS[i]}; break ;;
		esac
	done
	case $command in
	'') flags='--root --log --log-format --debug --systemd-cgroup --cgroup-manager --rootless --help -h --version -v' ;;
	create) flags='--bundle -b --config -f --console-socket --pidfd-socket --pid-file --no-pivot --no-new-keyring --preserve-fds --help -h' values='--bundle|-b|--config|-f|--console-socket|--pidfd-socket|--pid-file|--preserve-fds' ;;
	start) flags='--help -h' first=container ;;
	run) flags='--bundle -b --config -f --detach -d --keep --console-socket --pidfd-socket --pid-file --no-subreaper --no-pivot --no-new-keyring --preserve-fds --help -h' values='--bundle|-b|--config|-f|--console-socket|--pidfd-socket|--pid-file|--preserve-fds' ;;
	exec) flags='--process -p --tty -t --cwd --env -e --user -u --additional-gids -g --cap -c --no-new-privs --apparmor --process-label --detach -d --console-socket --pidfd-socket --pid-file --preserve-fds --cgroup --ignore-paused --help -h' first=container values='--process|-p|--cwd|--env|-e|--user|-u|--additional-gids|-g|--cap|-c|--apparmor|--process-label|--console-socket|--pidfd-socket|--pid-file|--preserve-fds|--cgroup' ;;
	state) flags='--help -h' first=container ;;
	kill) flags='--all -a --help -h' first=container ;;
	delete) flags='--force -f --help -h' first=container ;;
	pause) flags='--help -h' first=container ;;
	resume) flags='--help -h' first=container ;;
	update) flags='--resources -r --memory --memory-reservation --memory-swap --cpu-share --cpu-quota --cpu-period --cpu-burst --cpu-idle --cpu-rt-runtime --cpu-rt-period --cpuset-cpus --cpuset-mems --blkio-weight --pids-limit --help -h' first=container values='--resources|-r|--memory|--memory-reservation|--memory-swap|--cpu-share|--cpu-quota|--cpu-period|--cpu-burst|--cpu-idle|--cpu-rt-runtime|--cpu-rt-period|--cpuset-cpus|--cpuset-mems|--blkio-weight|--pids-limit' ;;
	ps) flags='--format -f --help -h' first=container values='--format|-f' ;;
	events) flags='--interval --stats --help -h' first=container values='--interval' ;;
	list) flags='--format -f --quiet -q --help -h' values='--format|-f' ;;
	spec) flags='--bundle -b --rootless --help -h' values='--bundle|-b' ;;
	features) flags='--help -h' ;;
	esac
	case $command:$prev in
	:--root|create:--bundle|create:-b|run:--bundle|run:-b|spec:--bundle|spec:-b)
		compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		return ;;
	:--log|create:--config|create:-f|create:--console-socket|create:--pidfd-socket|create:--pid-file|run:--config|run:-f|run:--console-socket|run:--pidfd-socket|run:--pid-file|exec:--process|exec:-p|exec:--console-socket|exec:--pidfd-socket|exec:--pid-file|update:--resources|update:-r)
		compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return ;;
	:--log-format)
		mapfile -t COMPREPLY < <(compgen -W 'text json' -- "$cur")
		return ;;
	:--cgroup-manager)
		mapfile -t COMPREPLY < <(compgen -W 'cgroupfs systemd disabled' -- "$cur")
		return ;;
	:--rootless)
		mapfile -t COMPREPLY < <(compgen -W 'auto true false' -- "$cur")
		return ;;
	create:--preserve-fds|run:--preserve-fds|exec:--cwd|exec:--env|exec:-e|exec:--user|exec:-u|exec:--additional-gids|exec:-g|exec:--cap|exec:-c|exec:--apparmor|exec:--process-label|exec:--preserve-fds|exec:--cgroup|update:--memory|update:--memory-reservation|update:--memory-swap|update:--cpu-share|update:--cpu-quota|update:--cpu-period|update:--cpu-burst|update:--cpu-idle|update:--cpu-rt-runtime|update:--cpu-rt-period|update:--cpuset-cpus|update:--cpuset-mems|update:--blkio-weight|update:--pids-limit|events:--interval)
		:
		return ;;
	ps:--format|ps:-f|list:--format|list:-f)
		mapfile -t COMPREPLY < <(compgen -W 'table json' -- "$cur")
		return ;;
	esac
	if [[ $cur == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur")
		return
	fi
	if [[ -z $command ]]; then
		mapfile -t COMPREPLY < <(compgen -W 'create start run exec state kill delete pause resume update ps events list spec features help' -- "$cur")
		return
	fi
	for ((i++; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		-*) [[ "|$values|" == *"|${COMP_WORDS[i]}|"* ]] && ((i++)) ;;
		*) ((id++)) ;;
		esac
	done
	case $command:$id in
	help:0) mapfile -t COMPREPLY < <(compgen -W 'create start run exec state kill delete pause resume update ps events list spec features' -- "$cur") ;;
	kill:1) mapfile -t COMPREPLY < <(compgen -W 'HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS' -- "$cur") ;;
	*:0) [[ $first == container ]] && mapfile -t COMPREPLY < <(compgen -W "$(orlop "${root[@]}" list -q 2>/dev/null)" -- "$cur") ;;
	esac
	return 0
}
complete -F _orlop orlop
