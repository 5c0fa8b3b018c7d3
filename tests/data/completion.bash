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
	list) flags='--format -f --quiet -q --help -h' values='--format|-f' ;;
	spec) flags='--bundle -b --rootless --help -h' values='--bundle|-b' ;;
	features) flags='--help -h' ;;
	esac
	case $command:$prev in
	:--root) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	:--log) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	:--log-format) mapfile -t COMPREPLY < <(compgen -W 'text json' -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	:--cgroup-manager) mapfile -t COMPREPLY < <(compgen -W 'cgroupfs systemd disabled' -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	:--rootless) mapfile -t COMPREPLY < <(compgen -W 'auto true false' -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	create:--bundle|create:-b) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	create:--config|create:-f) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	create:--console-socket) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	create:--pidfd-socket) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	create:--pid-file) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	create:--preserve-fds) mapfile -t COMPREPLY < <(true); compopt -o filenames 2>/dev/null; return ;;
	run:--bundle|run:-b) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	run:--config|run:-f) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	run:--console-socket) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	run:--pidfd-socket) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	run:--pid-file) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	run:--preserve-fds) mapfile -t COMPREPLY < <(true); compopt -o filenames 2>/dev/null; return ;;
	exec:--process|exec:-p) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	exec:--cwd) mapfile -t COMPREPLY < <(true); compopt -o filenames 2>/dev/null; return ;;
	exec:--env|exec:-e) mapfile -t COMPREPLY < <(true); compopt -o filenames 2>/dev/null; return ;;
	exec:--user|exec:-u) mapfile -t COMPREPLY < <(true); compopt -o filenames 2>/dev/null; return ;;
	exec:--additional-gids|exec:-g) mapfile -t COMPREPLY < <(true); compopt -o filenames 2>/dev/null; return ;;
	exec:--cap|exec:-c) mapfile -t COMPREPLY < <(true); compopt -o filenames 2>/dev/null; return ;;
	exec:--apparmor) mapfile -t COMPREPLY < <(true); compopt -o filenames 2>/dev/null; return ;;
	exec:--process-label) mapfile -t COMPREPLY < <(true); compopt -o filenames 2>/dev/null; return ;;
	exec:--console-socket) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	exec:--pidfd-socket) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	exec:--pid-file) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	exec:--preserve-fds) mapfile -t COMPREPLY < <(true); compopt -o filenames 2>/dev/null; return ;;
	exec:--cgroup) mapfile -t COMPREPLY < <(true); compopt -o filenames 2>/dev/null; return ;;
	list:--format|list:-f) mapfile -t COMPREPLY < <(compgen -W 'table json' -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	spec:--bundle|spec:-b) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames 2>/dev/null; return ;;
	esac
	if [[ $cur == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur")
		return
	fi
	if [[ -z $command ]]; then
		mapfile -t COMPREPLY < <(compgen -W 'create start run exec state kill delete list spec features help' -- "$cur")
		return
	fi
	for ((i++; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		-*) [[ "|$values|" == *"|${COMP_WORDS[i]}|"* ]] && ((i++)) ;;
		*) ((id++)) ;;
		esac
	done
	case $command:$id in
	help:0) mapfile -t COMPREPLY < <(compgen -W 'create start run exec state kill delete list spec features' -- "$cur") ;;
	kill:1) mapfile -t COMPREPLY < <(compgen -W 'HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS' -- "$cur") ;;
	*:0) [[ $first == container ]] && mapfile -t COMPREPLY < <(compgen -W "$(orlop "${root[@]}" list -q 2>/dev/null)" -- "$cur") ;;
	esac
	return 0
}
complete -F _orlop orlop
