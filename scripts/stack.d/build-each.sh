# shellcheck shell=bash
# scripts/stack build-each [--topic T[,T]] [--boot] - every patch builds
#
# In turn, with KVM_INTEL=m KVM_AMD=m KVM_WERROR=y, and for arm64 where it touches it or common
# code; with the last of the patches that touch them, for arm64 with 64K pages, and riscv. With
# --boot, each also boots in a lane and passes the smoke test. Results are cached, an interrupted
# run continues.

# The configs, besides x86's, that KVM is compiled with: ARCH or ARCH-VARIANT. Those that the stack
# changes nothing but common code of, or a variant of, are compiled once.
readonly OTHER_CONFIGS=(arm64 arm64-64k riscv) EACH_CONFIGS=(arm64)

# touches CONFIG PATCH: common code is everyone's, but a variant is for its architecture's alone.
touches() {
	local where="arch/${1%%-*}"

	[[ $1 == *-* ]] || where+="|virt|include|mm"
	git apply --numstat "$2" | cut -f3 | grep -E "^($where)/" >/dev/null
}

# each_patch LIST FUNCTION: FUNCTION PATCH COMMIT for all patches of LIST.
each_patch() {
	local p nr=0

	for p in "${PATCHES[@]}"; do
		nr=$((nr + 1))
		! grep -qxF "$p" <<<"$1" ||
			"$2" "$p" "$(git -C "$LINUX" rev-parse "HEAD~$((${#PATCHES[@]} - nr))")"
	done
}

# killable COMMAND...: runs it, and a signal needn't wait for it. It is in UNDER_WAY.
UNDER_WAY=
killable() {
	local code=0

	"$@" &
	UNDER_WAY=$!
	wait $UNDER_WAY || code=$?
	UNDER_WAY=
	return $code
}

# build_patch WORD CONFIG PATCH COMMIT
build_patch() {
	local code=0

	killable "$ROOT/ci/kernel" --tree "$4" --config "$2" >/dev/null || code=$?
	case $code in
	0) pass "$1 builds: $3" ;;
	"$E_STACK") fault "$1 does not build: $3" ;;
	# Disk, packages, network: says nothing about the patch, nor would it about the next one.
	*) die $code "build-each stopped at $3, which is not at fault: see above" ;;
	esac
}

# build_x86 PATCH COMMIT, with verb_build_each()'s boot
build_x86() {
	local code=0

	build_patch x86 werror "$1" "$2"
	[[ $boot ]] || return 0
	killable "$ROOT/ci/run" --kernel "$2" --test smoke >&2 || code=$?
	case $code in
	0) pass "boots: $1" ;;
	"$E_USAGE" | "$E_ENV") exit "$code" ;;
	*) fault "does not boot and pass: $1" ;;
	esac
}

# build_others PATCH COMMIT, with verb_build_each()'s last
build_others() {
	local config

	for config in "${OTHER_CONFIGS[@]}"; do
		touches "$config" "$ROOT/patches/$1" || continue
		[[ " ${EACH_CONFIGS[*]} " == *" $config "* || ${last[$config]} == "$1" ]] || continue
		build_patch "$config" "$config" "$1" "$2"
	done
}

verb_build_each() {
	local topic='' boot='' list p config passes faults counts others code=0
	local -A last=()

	while (($#)); do
		case $1 in
		--topic) topic=${2-}; shift 2 || die $E_USAGE "--topic wants a name" ;;
		--boot) boot=1; shift ;;
		*) die $E_USAGE "build-each: unknown option '$1'" ;;
		esac
	done
	need_packages
	need_base
	read_series
	list=$(select_patches "$topic" "")
	[[ $(applied_prefix "$LINUX" base "${PATCHES[@]}") == "${#PATCHES[@]}" ]] ||
		die $E_ENV "$LINUX does not hold exactly the series: scripts/stack apply, or export"

	# What is compiled once is so with the last of the patches that touch it.
	for p in $list; do
		for config in "${OTHER_CONFIGS[@]}"; do
			! touches "$config" "$ROOT/patches/$p" || last[$config]=$p
		done
	done
	# Side by side: what a small patch changes is one file to compile, and then one to link.
	counts=$BUILD/build-each.others
	set -m # a process group, to be ended with its compilers if this program is
	{
		each_patch "$list" build_others
		echo "$PASSES $FAULTS" >"$counts"
	} &
	set +m
	others=$!
	# shellcheck disable=SC2064 # this one's
	trap "kill -- -$others \$UNDER_WAY 2>/dev/null || true" EXIT
	trap 'exit 130' INT TERM
	each_patch "$list" build_x86
	wait $others || die $? "build-each did not get to its end"
	trap - EXIT
	read -r passes faults <"$counts"
	PASSES=$((PASSES + passes)) FAULTS=$((FAULTS + faults))
	printf '%d passed, %d failed, 0 skipped\n' "$PASSES" "$FAULTS"
	((FAULTS == 0)) || exit $E_STACK
}
