# shellcheck shell=bash
# What scripts/stack and the programs under ci/ share: messages, exit codes, packages, disk.
# Sourced; sets ROOT, BUILD and CACHE.
# shellcheck disable=SC2034 # what is set here is used by those who source it
#
# Exit codes of every program here:
#   0  fine
#   1  the stack is at fault: a patch, a test, a check
#   2  wrong usage: an option, lane, test, topic or tree that does not exist
#   3  the environment is at fault: package, network, disk, state of a work tree
# ci/run has more, for what can happen to a VM; see ci/run --help.

# shellcheck source=scripts/environment.sh
. "${BASH_SOURCE[0]%/*}/environment.sh"

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=$(realpath -m -- "${KVM_STACK_BUILD:-$ROOT/build}")
CACHE=$(realpath -m -- "${KVM_STACK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvm-mmu-stack}")

readonly E_STACK=1 E_USAGE=2 E_ENV=3

# A command that fails where nothing was said about it is a bug of ours, and is not silent, unless
# there is no room left to write to, which is the environment's fault. Codes from E_USAGE up come from
# a die() in a subshell, which has said why; what called it does not go on without its words.
set -E
shopt -s inherit_errexit
trap 'oops $? "${BASH_SOURCE[0]##*/}" "$LINENO"' ERR

# oops CODE FILE LINE
oops() {
	local dir

	(($1 < E_USAGE || $1 > 7)) || return 0
	for dir in "$BUILD" "$CACHE" "${TMPDIR:-/tmp}" "${REPORT-}" "${VMS-}"; do
		! full "$dir" || die "$E_ENV" "disk full: nothing can be written to $dir; make room, then again"
	done
	printf '%s: internal error: exit %d at %s:%d\n' "${0##*/}" "$@" >&2
}

# full DIR: whether nothing can be written there any more.
full() {
	local file=$1/.full.$BASHPID code=0

	[[ -d $1 ]] || return 1
	{ head -c 65536 /dev/zero >"$file"; } 2>/dev/null || code=1
	rm -f "$file"
	((code))
}

# no_room LOG: the first line, if any, that says that this machine had no room, on its disk or in its
# memory.
no_room() {
	grep -aim1 -E 'no space left on device|cannot allocate memory|virtual memory exhausted|Killed signal terminated program' "$1" ||
		(($? == 1))
}

# say WORDS: progress, on stderr, with the seconds since the program began.
say() {
	printf '[%4ds] %s\n' "$SECONDS" "$*" >&2
}

# die CODE WORDS: one clear line, then exit CODE.
die() {
	local code=$1
	shift
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit "$code"
}

# own DIR VARIABLE NAME...: refuses a folder, named by VARIABLE, that holds what is not ours, as things
# are removed there, by names as common as src. An empty or new one is ours, and marked. One of before
# the mark is told by holding NAMEs.
own() {
	local dir=$1 variable=$2 name
	shift 2

	[[ ! -e $dir/.kvm-mmu-stack ]] || return 0
	if [[ -e $dir && $(ls -A "$dir" 2>/dev/null) ]]; then
		for name; do
			[[ -e $dir/$name ]] ||
				die $E_USAGE "$variable=$dir is a folder that holds other things: name a new or an empty one"
		done
	fi
	# Where it can't be made, what needs it says so.
	{ mkdir -p "$dir" && : >"$dir/.kvm-mmu-stack"; } 2>/dev/null || true
}

# usage [FILE]: prints the comment at the head of FILE, or of the program, which is its --help.
# shellcheck disable=SC2120 # an argument is optional
usage() {
	awk 'NR == 1 { next } !/^#/ { exit } { sub(/^# ?/, ""); print }' "${1:-$0}"
}

# matches NAME LIST: whether NAME is one of LIST, N[,N], or matches a shell pattern there.
matches() {
	local patterns pattern

	IFS=, read -ra patterns <<<"$2"
	for pattern in ${patterns[@]+"${patterns[@]}"}; do
		# shellcheck disable=SC2053 # a pattern is meant
		[[ $1 != $pattern ]] || return 0
	done
	return 1
}

# need_packages [PROGRAM...]: installs what scripts/packages lists and this machine lacks,
# all of it or only the packages behind the programs named. Needs root for that, and says
# which packages are missing otherwise. Names them before, and asks nothing.
# shellcheck disable=SC2120 # arguments are optional
need_packages() {
	local pkg probe known=' ' missing=()

	need_host "$@"
	while read -r pkg probe; do
		[[ $pkg == "#"* || -z $pkg ]] && continue
		known+="$probe "
		if (($#)) && [[ " $* " != *" $probe "* ]]; then
			continue
		fi
		if [[ $probe == /* ]]; then
			[[ -e $probe ]] || missing+=("$pkg")
		else
			command -v "$probe" >/dev/null || missing+=("$pkg")
		fi
	done <"$ROOT/scripts/packages"
	for probe; do
		[[ $known == *" $probe "* ]] || die $E_ENV "scripts/packages has no package for $probe: add it"
	done
	((${#missing[@]})) || return 0

	command -v apt-get >/dev/null ||
		die $E_ENV "missing what these packages of Debian's hold: ${missing[*]}; this machine has no apt-get: install them its own way"
	((EUID == 0)) || die $E_ENV "missing packages; as root: apt-get install ${missing[*]}"
	say "installing, with apt-get: ${missing[*]}"
	mkdir -p "$BUILD"
	if ! { apt-get update && DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l APT_LISTCHANGES_FRONTEND=none \
		apt-get install -y --no-install-recommends "${missing[@]}"; } </dev/null >"$BUILD/apt.log" 2>&1; then
		die $E_ENV "cannot install ${missing[*]}: $(apt_error "$BUILD/apt.log") (see $BUILD/apt.log)"
	fi
}

# need_host [PROGRAM...]: what builds kernels, or boots them, is for x86-64.
need_host() {
	[[ $(uname -m) == x86_64 ]] && return
	if (($# == 0)) || [[ " $* " =~ \ (gcc|qemu-system-[a-z0-9_]+)\  ]]; then
		die $E_ENV "this is a $(uname -m) machine, and kernels are built and booted on x86-64 only; what works here: scripts/stack base, apply, rebase, export, check, drift, send"
	fi
}

# need_disk MIB WHAT [VARIABLE]: refuses to begin WHAT with less than MIB free under build/, or in the
# folder that VARIABLE moves.
need_disk() {
	local dir=$BUILD variable=${3-KVM_STACK_BUILD} free

	[[ $variable != KVM_STACK_CACHE ]] || dir=$CACHE
	[[ -d $dir ]] || mkdir -p "$dir" 2>/dev/null || die $E_ENV "cannot create $dir: is the disk full or read-only?"
	free=$(df -m --output=avail "$dir")
	free=${free##*[!0-9]}
	((free >= $1)) || die $E_ENV "$2 needs $1 MiB under $dir, $free MiB are free: make room, or set $variable"
}

# compiled FILE.c COMPILER ARG...: prints the path of the program. It is named by its source, whichever
# checkout or commit that is of, and is there whole or not at all.
compiled() {
	local source=$1 program
	shift

	program=$({ cat "$source"; echo "$@"; } | sha256sum)
	program=$BUILD/bin/$(basename "$source" .c).${program:0:12}
	if [[ ! -x $program ]]; then
		mkdir -p "$BUILD/bin" 2>/dev/null || die $E_ENV "cannot create $BUILD/bin: is the disk full or read-only?"
		"$1" -O2 -Wall -Wextra -Werror -o "$program.$BASHPID" "$source" "${@:2}" || die $E_ENV "cannot build ${source#"$ROOT/"}"
		mv "$program.$BASHPID" "$program"
	fi
	printf '%s\n' "$program"
}

# base_value KEY: the value of KEY in BASE.
base_value() {
	sed -n "s/^$1=//p" "$ROOT/BASE"
}

# cross_prefix ARCH: what the programs of the toolchain for the kernel's ARCH begin with; nothing if
# this machine is one.
cross_prefix() {
	[[ $1 != x86_64 ]] || return 0
	case $1.$(uname -m) in
	arm64.aarch64 | riscv.riscv64) ;;
	arm64.*) echo aarch64-linux-gnu- ;;
	riscv.*) echo riscv64-linux-gnu- ;;
	esac
}

# apt_error LOG: the line that says why apt failed. No network, or no key, comes first: what else apt
# tells of follows from it.
apt_error() {
	grep -m1 -E '^[WE]: (Failed to fetch|GPG error|.*(NO_PUBKEY|not signed))' "$1" || grep -m1 '^[WE]:' "$1" || tail -n 1 "$1"
}

# private_apt SUITE apt-get|apt-cache ARG...: apt for a suite that this machine does not use; its
# sources, lists and cache are below build/apt/SUITE, nothing of it touches the system.
private_apt() {
	local dir=$BUILD/apt/$1 suite=$1 tool=$2 keyring
	shift 2

	keyring=$(base_value keyring)
	if [[ ! -r $keyring ]]; then
		echo "W: GPG error: no keys of Debian's in $keyring: install debian-archive-keyring, or name them in BASE"
		return $E_ENV
	fi >&2
	mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
	printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$(base_value mirror)" "$suite" \
		>"$dir/sources.list"
	"$tool" -q -o Dir::Etc::SourceList="$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
		-o Dir::State::Lists="$dir/lists" -o Dir::Cache="$dir/cache" \
		-o APT::Sandbox::User=root -o Acquire::Retries=2 "$@"
}

[[ $BUILD == "$ROOT/build" ]] || own "$BUILD" KVM_STACK_BUILD base-version linux/.git
[[ ! ${KVM_STACK_CACHE-} ]] || own "$CACHE" KVM_STACK_CACHE deb kernel
