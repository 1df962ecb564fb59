# shellcheck shell=bash
# scripts/stack drift --tree DIR - how each patch fares on another kernel tree
#
#   applies     as it is
#   3-way       git am -3 merges it
#   3-way*      it does, once DIR has the stack's objects; the last line says how it gets them. Patches after
#               the first such one are judged as if DIR had them
#   upstream    its reverse applies
#   conflicts   git am -3 stops, in the files named; those after it are judged without it
#
# After the patches, a table of the topics. DIR is only read.

verb_drift() {
	local tree='' objects='' p file state topic count=0
	local -A in_topic=()
	local -A n=([applies]=0 [3-way]=0 [3-way*]=0 [conflicts]=0 [upstream]=0)

	while (($#)); do
		case $1 in
		--tree) tree=${2-}; shift 2 || die $E_USAGE "--tree wants a directory" ;;
		*) die $E_USAGE "drift: unknown option '$1'" ;;
		esac
	done
	[[ $tree ]] || die $E_USAGE "drift wants --tree DIR"
	is_kernel_tree "$tree" || die $E_USAGE "$tree is not a kernel tree"
	need_packages git
	need_base
	read_series
	((${#PATCHES[@]})) || die $E_STACK "series names no patch"

	# Only the files that the patches touch matter. What git am -3 merges with must be among the
	# tree's own objects, as it must for the user.
	scratch
	git -C "$SCRATCH" init -q
	if [[ $(git -C "$tree" rev-parse --show-toplevel 2>/dev/null) -ef $tree ]]; then
		objects=$(cd "$tree" && realpath "$(git rev-parse --git-path objects)")
		printf '%s\n' "$objects" >"$SCRATCH/.git/objects/info/alternates"
	fi
	git apply --numstat "${PATCHES[@]/#/$ROOT/patches/}" | cut -f3 | sort -u | while read -r file; do
		if [[ -f $tree/$file ]]; then
			mkdir -p "$SCRATCH/$(dirname "$file")"
			cp "$tree/$file" "$SCRATCH/$file"
		fi
	done
	git -C "$SCRATCH" add -A -f .
	git -C "$SCRATCH" commit -q --allow-empty -m drift

	for p in "${PATCHES[@]}"; do
		count=$((count + 1))
		p=$ROOT/patches/$p
		if git -C "$SCRATCH" apply --check --index "$p" 2>/dev/null && git -C "$SCRATCH" am -q --no-3way --keep-cr "$p" >/dev/null 2>&1; then
			state=applies
		elif am_ends && git -C "$SCRATCH" apply --check --index --reverse "$p" 2>/dev/null; then
			state=upstream
		elif merges "$p"; then
			state=3-way
		# One that stopped in a file had all that it wanted.
		elif [[ -z $UNMERGED ]] && GIT_ALTERNATE_OBJECT_DIRECTORIES=$LINUX/.git/objects merges "$p"; then
			state=3-way*
			# What the merge took from there is needed from here on, too.
			mkdir -p "$SCRATCH/.git/objects/info"
			printf '%s\n' "$LINUX/.git/objects" >>"$SCRATCH/.git/objects/info/alternates"
		else
			state=conflicts
		fi
		n[$state]=$((n[$state] + 1))
		printf '%-10s %s\n' "$state" "${p##*/}"
		[[ $state != conflicts || -z $UNMERGED ]] || printf '%s\n' "$UNMERGED" | sed 's/^/           in /'
		in_topic[${TOPIC_OF[${p##*/}]} $state]=$((${in_topic[${TOPIC_OF[${p##*/}]} $state]-0} + 1))
	done
	printf '\n%-20s %7s %6s %9s %8s\n' topic applies 3-way conflicts upstream
	for topic in "${TOPICS[@]}"; do
		printf '%-20s %7d %6d %9d %8d\n' "$topic" "${in_topic[$topic applies]-0}" \
			"$((${in_topic[$topic 3-way]-0} + ${in_topic[$topic 3-way*]-0}))" \
			"${in_topic[$topic conflicts]-0}" "${in_topic[$topic upstream]-0}"
	done
	printf '%d patches: %d apply, %d 3-way, %d conflict, %d upstream\n' $count \
		"${n[applies]}" "$((n[3-way] + n[3-way*]))" "${n[conflicts]}" "${n[upstream]}"
	((n[3-way*] == 0)) ||
		printf '* once it has the objects: git -C %s fetch %s stack\n' "$tree" "$LINUX"
	((n[conflicts] == 0)) || exit $E_STACK
}

# am_ends: ends the am under way, if one is.
am_ends() {
	[[ ! -d $SCRATCH/.git/rebase-apply ]] || git -C "$SCRATCH" am --abort
}

# merges PATCH: git am -3 takes it, without a word to anybody; else UNMERGED is the files where it doesn't.
merges() {
	git -C "$SCRATCH" am -q -3 --keep-cr "$1" >/dev/null 2>&1 && return
	UNMERGED=$(git -C "$SCRATCH" diff --name-only --diff-filter=U)
	git -C "$SCRATCH" am --abort
	return 1
}
