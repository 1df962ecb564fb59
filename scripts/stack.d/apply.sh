# shellcheck shell=bash
# Sourced by scripts/stack, whose --help says what the verb takes and does.

# patch_ids: the patch ID of each patch, or commit with its diff, on stdin.
patch_ids() {
	git patch-id --stable | cut -d' ' -f1
}

# applied_prefix DIR FROM FILE...: how many of FILE..., in order, are the commits FROM..HEAD of
# DIR; -1 if these commits are something else.
applied_prefix() {
	local dir=$1 from=$2 n
	shift 2

	n=$(git -C "$dir" rev-list --count "$from..HEAD")
	if ((n > $#)) || ! cmp -s \
		<(git -C "$dir" rev-list --reverse "$from..HEAD" | git -C "$dir" diff-tree --stdin -p -M | patch_ids) \
		<(cd "$ROOT/patches" && cat /dev/null "${@:1:n}" | patch_ids); then
		n=-1
	fi
	echo "$n"
}

verb_apply() {
	local tree='' topic='' upto='' list dir from p done_ total base_commit log

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

	if [[ $tree ]]; then
		need_tree "$tree"
		dir=$(cd "$tree" && pwd)
	else
		need_base
		dir=$LINUX
	fi
	resume_am "$dir"
	need_clean "$dir"

	if [[ $dir -ef $LINUX ]]; then
		base_commit=$(git -C "$dir" rev-parse "base^{commit}")
		if ! git -C "$dir" merge-base --is-ancestor base HEAD; then
			# The base package moved: the old commits stay reachable under a branch.
			git -C "$dir" branch -f "stack-before-$(date +%Y%m%d-%H%M%S)" HEAD
			git -C "$dir" checkout -q -B stack base
		fi
		from=$base_commit
	else
		from=$(apply_point "$dir" "${list[@]}")
	fi
	total=${#list[@]}
	done_=$(applied_prefix "$dir" "$from" "${list[@]}")
	if ((done_ < 0)); then
		die $E_ENV "$dir has commits since its base that are not in series: export them, or git -C $dir reset --hard ${from:0:12}"
	elif ((done_ == total)); then
		# build/linux is ours to have patched; somebody else's tree may be patched by mistake.
		[[ -z $tree ]] || die $E_ENV "$dir is already patched: all $total patches are there, nothing to do"
		say "$dir is up to date: all $total patches are there"
		return
	elif ((done_)); then
		say "continuing: $done_ of $total patches are there"
	fi

	log=$BUILD/apply.log
	mkdir -p "$BUILD"
	for p in "${list[@]:done_}"; do
		done_=$((done_ + 1))
		say "$done_/$total $p"
		if ! am_one "$dir" "$ROOT/patches/$p" >"$log" 2>&1; then
			git -C "$dir" am --abort >/dev/null 2>&1 || true
			report_stop "$dir" "$p" "$((done_ - 1))" "$from"
		fi
		if [[ $dir -ef $LINUX ]]; then
			git -C "$dir" branch -q -f "topic/${TOPIC_OF[$p]}" HEAD
		fi
	done
	say "applied: $total patches on $dir"
}

am_one() {
	GIT_COMMITTER_NAME=${GIT_COMMITTER_NAME-kvm-mmu-stack} GIT_COMMITTER_EMAIL=${GIT_COMMITTER_EMAIL-stack@localhost} \
		kgit -C "$1" am -q --no-3way --keep-cr --committer-date-is-author-date "$2"
}

# An am that we were killed in is ours to undo; one of the user's is not.
resume_am() {
	local gitdir

	gitdir=$(git -C "$1" rev-parse --absolute-git-dir)
	if [[ $1 -ef $LINUX && -d $gitdir/rebase-apply ]]; then
		say "an apply was interrupted; going on from there"
		git -C "$1" am --abort >/dev/null 2>&1 || rm -rf "$gitdir/rebase-apply"
		git -C "$1" reset -q --hard HEAD
	fi
	if [[ $1 -ef $LINUX && -f $gitdir/index.lock ]] && ! pgrep -x git >/dev/null; then
		rm -f "$gitdir/index.lock"
	fi
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
		if [[ $(git -C "$dir" show --format=email "$commit" | patch_ids) == "$first" ]]; then
			git -C "$dir" rev-parse "HEAD~$n"
			return
		fi
	done
	git -C "$dir" rev-parse HEAD
}

report_stop() {
	local dir=$1 patch=$2 before=$3 from=$4 hunk

	hunk=$( (git -C "$dir" apply --check "$ROOT/patches/$patch" 2>&1 || true) |
		sed -n 's/^error: patch failed: //p' | paste -sd' ')
	printf 'stack: %s patch(es) applied, stopped at %s\n' "$before" "$patch" >&2
	printf 'stack: failed hunk(s): %s\n' "${hunk:-$(grep -m1 '^error:' "$BUILD/apply.log" || echo unknown)}" >&2
	printf 'stack: to see it with 3-way markers: git -C %s am -3 %s\n' "$dir" "$ROOT/patches/$patch" >&2
	printf 'stack: to undo: git -C %s reset --hard %s\n' "$dir" "${from:0:12}" >&2
	die $E_STACK "$patch does not apply to $dir"
}
