# shellcheck shell=bash
# Sourced by scripts/stack, whose --help says what the verb takes and does.

verb_status() {
	local n=-1 gitdir

	(($# == 0)) || die $E_USAGE "status: unknown option '$1'"
	need_base
	read_series
	gitdir=$(git -C "$LINUX" rev-parse --absolute-git-dir)
	if git -C "$LINUX" merge-base --is-ancestor base HEAD; then
		n=$(applied_prefix "$LINUX" base ${PATCHES[@]+"${PATCHES[@]}"})
	fi
	if ((n < 0)) || [[ $(git -C "$LINUX" status --porcelain --untracked-files=no) ]]; then
		echo "not series"
	elif ((n == ${#PATCHES[@]})); then
		echo series
	elif ((n == 0)) && [[ ! -d $gitdir/rebase-merge && ! -d $gitdir/rebase-apply ]]; then
		echo base
	else
		echo "$n of ${#PATCHES[@]} patches"
	fi
}
