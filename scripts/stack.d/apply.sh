# shellcheck shell=bash
# scripts/stack apply [--tree DIR] [--topic T[,T]] [--upto N] - the patches, as commits
#
# git am of series (of these topics, or patterns, only; of its first N patches only) onto the base in
# build/linux, on branch "stack", without fuzz. A branch topic/NAME marks the last patch of each
# topic. Goes on where an earlier apply ended; if series has changed since, and nothing but an
# earlier series is there, begins anew. Stops at a patch that fails and says which patch, which
# hunk, what to do.
#
# With --tree: onto HEAD of a kernel tree of yours, or onto the base that "base --tree" recorded.
#
# Commits of yours stay where they are: to get those onto a base that moved, see
# scripts/stack rebase --help; into patches/, scripts/stack export --help.

# patch_ids: the patch ID of each patch, or commit with its diff, on stdin.
patch_ids() {
	git patch-id --stable | cut -d' ' -f1
}

# commit_ids DIR FROM: those of the commits FROM..HEAD.
commit_ids() {
	git -C "$1" rev-list --reverse "$2..HEAD" | git -C "$1" diff-tree --no-ext-diff --stdin -p -M | patch_ids
}

# applied_prefix DIR FROM FILE...: how many of FILE..., in order, are the commits FROM..HEAD of
# DIR; -1 if these commits are something else.
applied_prefix() {
	local dir=$1 from=$2 n
	shift 2

	n=$(git -C "$dir" rev-list --count "$from..HEAD")
	if ((n > $#)) || ! cmp -s <(commit_ids "$dir" "$from") \
		<(cd "$ROOT/patches" && cat /dev/null "${@:1:n}" | patch_ids); then
		n=-1
	fi
	echo "$n"
}

verb_apply() {
	local tree='' topic='' upto='' list dir from p done_ total before=''

	while (($#)); do
		case $1 in
		--tree) tree=${2-}; shift 2 || die $E_USAGE "--tree wants a directory" ;;
		--topic) topic=${2-}; shift 2 || die $E_USAGE "--topic wants a name" ;;
		--upto) upto=${2-}; shift 2 || die $E_USAGE "--upto wants a number" ;;
		*) die $E_USAGE "apply: unknown option '$1'" ;;
		esac
	done

	need_packages git
	read_series
	list=$(select_patches "$topic" "$upto")
	mapfile -t list < <([[ -z $list ]] || printf '%s\n' "$list")
	((${#list[@]})) || die $E_STACK "series names no patch"
	for p in "${list[@]}"; do
		[[ -f $ROOT/patches/$p ]] || die $E_STACK "series names $p, patches/ does not hold it"
	done
	total=${#list[@]}

	if [[ $tree ]]; then
		need_tree "$tree"
		dir=$(cd "$tree" && pwd)
	else
		need_base
		dir=$LINUX
	fi
	undo_own_am "$dir"
	need_clean "$dir"

	if [[ $dir -ef $LINUX ]]; then
		from=base
		done_=-1
		if git -C "$dir" merge-base --is-ancestor base HEAD; then
			done_=$(applied_prefix "$dir" base "${list[@]}")
		fi
		if ((done_ < total)); then
			[[ $(branch_of "$dir") == stack ]] ||
				die $E_ENV "$dir is on ${tree:-$(branch_of "$dir" | grep . || echo no branch)}, not on \"stack\", whose patches are to be applied: git -C $dir checkout stack, then again"
			need_own_topics "$dir"
		fi
		if ((done_ < 0)); then
			need_nothing_new "$dir"
			before=$(git -C "$dir" for-each-ref --format='%(refname) %(objectname)' refs/heads/stack refs/heads/topic/)
			say "series or base have changed since: applying it anew"
			git -C "$dir" checkout -q -B stack base
			done_=0
		fi
	else
		from=$(apply_point "$dir" "${list[@]}")
		done_=$(applied_prefix "$dir" "$from" "${list[@]}")
		((done_ >= 0)) || die $E_ENV "$dir has commits since its base that are not in series: export them, or git -C $dir reset --hard ${from:0:12}"
		# build/linux is ours to have patched; somebody else's tree may be patched by mistake.
		((done_ < total)) || die $E_ENV "$dir is already patched: all $total patches are there, nothing to do"
	fi
	if ((done_ == total)); then
		say "$dir is up to date: all $total patches are there"
		[[ $(recorded_commit "$dir") == "$(git -C "$dir" rev-parse HEAD)" ]] || record_if_same "$dir" "$from"
		return
	elif ((done_)); then
		say "continuing: $done_ of $total patches are there"
	fi

	mkdir -p "$BUILD"
	for p in "${list[@]:done_}"; do
		done_=$((done_ + 1))
		say "$done_/$total $p"
		if ! am_one "$dir" "$ROOT/patches/$p" >"$BUILD/apply.log" 2>&1; then
			git -C "$dir" am --abort >/dev/null 2>&1 || true
			if [[ $before ]] && [[ $(recorded_base "$dir") != $(git -C "$dir" rev-parse base) ]]; then
				put_back "$dir" "$before"
				die $E_STACK "$p does not apply to the new base; $dir is as it was: scripts/stack rebase takes it there, with 3-way merges"
			fi
			record "$dir" "$from" "${list[@]:0:done_-1}"
			report_stop "$dir" "$from" "${list[@]:done_-1}"
		fi
		if [[ $dir -ef $LINUX ]]; then
			git -C "$dir" branch -q -f "topic/${TOPIC_OF[$p]}" HEAD
		fi
	done
	record "$dir" "$from" "${list[@]}"
	say "applied: $total patches on $dir"
}

# --exclude excludes nothing: git am keeps it with the state of the am, which tells ours from the user's.
readonly OWN_AM=--exclude=scripts/stack-apply

# am_one DIR PATCH
am_one() {
	git -C "$1" am -q --no-3way --keep-cr --committer-date-is-author-date "$OWN_AM" "$2"
}

# undo_own_am DIR: an am of ours that was killed, and what it left of the patch. One of the user's,
# who may be in the middle of a conflict, is theirs.
undo_own_am() {
	local gitdir state files f

	gitdir=$(git -C "$1" rev-parse --absolute-git-dir)
	state=$gitdir/rebase-apply
	grep -qsF -e "$OWN_AM" "$state/apply-opt" || return 0
	if git_runs_in "$1"; then
		die $E_ENV "a git am of another scripts/stack apply runs in $1: wait for it"
	fi
	say "an apply was interrupted; going on from there"
	files=$(git -C "$1" apply --numstat "$state/0001" 2>/dev/null | cut -f3) || true
	rm -f "$gitdir/index.lock"
	git -C "$1" am --abort >/dev/null 2>&1 || rm -rf "$state"
	while read -r f; do
		if git -C "$1" cat-file -e "HEAD:$f" 2>/dev/null; then
			git -C "$1" checkout -q HEAD -- "$f"
		elif [[ $f ]]; then
			git -C "$1" rm -q -f --cached --ignore-unmatch -- "$f"
			rm -f "$1/$f"
		fi
	done <<<"$files"
}

# git_runs_in DIR: some git has DIR as its working directory.
git_runs_in() {
	local proc

	for proc in /proc/[0-9]*; do
		if [[ $(cat "$proc/comm" 2>/dev/null) == git* && $proc/cwd -ef $1 ]]; then
			return 0
		fi
	done
	return 1
}

# need_nothing_new DIR: there is nothing on branch "stack" but what apply and export put there.
need_nothing_new() {
	[[ $(git -C "$1" rev-parse HEAD) == "$(recorded_commit "$1")" ]] && return
	git -C "$1" merge-base --is-ancestor base HEAD ||
		die $E_ENV "the base of $1 has moved, and there are commits on the old one: scripts/stack rebase takes them along"
	die $E_ENV "$1 has commits since its base that are not in series: export them, or git -C $1 reset --hard $(git -C "$1" rev-parse --short=12 base)"
}

# need_own_topics DIR: the topic branches that apply is going to move mark commits of an apply or
# export, not work of the user's.
need_own_topics() {
	local last ref commit

	last=$(recorded_commit "$1")
	[[ $last ]] || return 0
	while read -r ref commit; do
		git -C "$1" merge-base --is-ancestor "$commit" HEAD || git -C "$1" merge-base --is-ancestor "$commit" "$last" ||
			die $E_ENV "branch $ref of $1 holds commits of its own, and apply would move it: git -C $1 branch -m $ref NAME, then again"
	done < <(git -C "$1" for-each-ref --format='%(refname:short) %(objectname)' refs/heads/topic/)
}

# put_back DIR REFS: "REF COMMIT" lines, one of them of branch "stack", which is checked out.
put_back() {
	local ref commit

	while read -r ref commit; do
		if [[ $ref == refs/heads/stack ]]; then
			git -C "$1" reset -q --hard "$commit"
		else
			git -C "$1" update-ref "$ref" "$commit"
		fi
	done <<<"$2"
}

# record_if_same DIR BASE: patches/ is what export would write, and selftests/ what DIR has.
record_if_same() {
	local file

	scratch
	write_patches "$1" "$2" "$SCRATCH"
	diff -rq "$ROOT/patches" "$SCRATCH" >/dev/null || return 0
	while read -r file; do
		[[ $(git -C "$1" hash-object --no-filters "$ROOT/selftests/$file") == \
			"$(git -C "$1" rev-parse -q --verify "HEAD:$KSELFTEST/$file")" ]] || return 0
	done < <(cd "$ROOT/selftests" && find . -type f -name '*.[chS]' -printf '%P\n')
	record "$1" "$2" "${PATCHES[@]}"
}

# apply_point DIR FILE...: where in DIR's history the stack begins: stack-base if it was
# recorded, else below as many of the top commits as are patches of the list.
apply_point() {
	local dir=$1 n first commit
	shift

	if base_ref "$dir" >/dev/null; then
		git -C "$dir" rev-parse "stack-base^{commit}"
		return
	fi
	first=$(patch_ids <"$ROOT/patches/$1")
	n=0
	for commit in $(git -C "$dir" rev-list -n $# HEAD); do
		n=$((n + 1))
		if [[ $(git -C "$dir" diff-tree --no-ext-diff -p -M "$commit" | patch_ids) == "$first" ]]; then
			git -C "$dir" rev-parse "HEAD~$n"
			return
		fi
	done
	git -C "$dir" rev-parse HEAD
}

# report_stop DIR FROM PATCH...: PATCH is the one that fails, then those after it.
report_stop() {
	local dir=$1 from=$2 patch=$3 hunk needed
	shift 2

	hunk=$( (git -C "$dir" apply --check "$ROOT/patches/$patch" 2>&1 || true) |
		sed -n 's/^error: patch failed: //p' | paste -sd' ')
	printf '%s\n' "${@/#/$ROOT/patches/}" >"$BUILD/apply.rest"
	printf 'stack: %s patch(es) applied, stopped at %s\n' "$(git -C "$dir" rev-list --count "$from..HEAD")" "$patch" >&2
	printf 'stack: failed hunk(s): %s\n' "${hunk:-$(grep -m1 '^error:' "$BUILD/apply.log" || echo unknown)}" >&2
	needed=$(needed_topics "$dir" "$from" "${TOPIC_OF[$patch]}")
	[[ -z $needed ]] || printf 'stack: topic %s needs: %s\n' "${TOPIC_OF[$patch]}" "$needed" >&2
	printf 'stack: it and the rest with 3-way merges: xargs git -C %s am -3 <%s\n' "$dir" "$BUILD/apply.rest" >&2
	printf 'stack: to undo: git -C %s reset --hard %s\n' "$dir" "$(git -C "$dir" rev-parse --short=12 "$from")" >&2
	die $E_STACK "$patch does not apply to $dir"
}

# needed_topics DIR FROM TOPIC: the topics before TOPIC that its patches do not apply to FROM without,
# in order; nothing if there are none, or they do not apply even with all of them.
needed_topics() {
	local index files needed=() t rest

	index=$(mktemp "$BUILD/index.XXXXXX")
	files=$(git apply --numstat "${PATCHES[@]/#/$ROOT/patches/}" | cut -f3 | sort -u)
	# applies TOPIC...: so much of FROM as any patch touches is quick to make, and to patch.
	applies() {
		rm -f "$index"
		xargs -d '\n' git -C "$1" ls-tree "$2" -- <<<"$files" | GIT_INDEX_FILE=$index git -C "$1" update-index --index-info
		select_patches "$3" '' | sed "s,^,$ROOT/patches/," |
			GIT_INDEX_FILE=$index xargs -d '\n' git -C "$1" apply --cached 2>/dev/null
	}
	if ! applies "$1" "$2" "$3"; then
		for t in "${TOPICS[@]}"; do
			[[ $t != "$3" ]] || break
			needed+=("$t")
		done
		if ((${#needed[@]})) && applies "$1" "$2" "$(IFS=,; echo "${needed[*]},$3")"; then
			# Take away what it does without.
			for t in "${needed[@]}"; do
				rest=$(printf '%s\n' "${needed[@]}" | grep -vx "$t" | paste -sd,) || true
				if [[ $rest ]] && applies "$1" "$2" "$rest,$3"; then
					mapfile -t needed < <(tr , '\n' <<<"$rest" | sed '/^$/d')
				fi
			done
			echo "${needed[*]-}"
		fi
	fi
	rm -f "$index"
}
