# shellcheck shell=bash
# scripts/stack rebase [--onto REF | --undo] [--tree DIR] - the stack's commits onto another base
#
# After "scripts/stack base" has moved the base: puts the commits on branch "stack" of build/linux,
# your own included, onto it, with 3-way merges; the topic/NAME branches move along. With --onto:
# onto any commit that build/linux has, e.g. FETCH_HEAD; it is the base from then on. What was there
# stays under the tag stack-before-DATE.
#
# Where a patch conflicts, git stops, and goes on by git's own words: edit, git add, and
# git -C build/linux rebase --continue; or --abort, and nothing has happened. Then
# scripts/stack export.
#
# With --undo: base, branch and topic branches as they were before the last rebase that got through.
# What that made, and what was committed since, stays under the tag stack-undone-DATE; patches/ and selftests/,
# if you have exported, are git's to take back.
#
# With --tree: the same in a tree of yours, with its base that "base --tree" recorded.

verb_rebase() {
	local dir=$LINUX onto='' undo='' tag old new n

	while (($#)); do
		case $1 in
		--onto) onto=${2-}; shift 2 || die $E_USAGE "--onto wants a commit" ;;
		--undo) undo=1; shift ;;
		--tree) dir=${2-}; shift 2 || die $E_USAGE "--tree wants a directory" ;;
		*) die $E_USAGE "rebase: unknown option '$1'" ;;
		esac
	done
	[[ -z $onto || -z $undo ]] || die $E_USAGE "--undo goes without --onto"
	need_packages git
	[[ $dir == "$LINUX" ]] && need_base
	need_tree "$dir"
	dir=$(cd "$dir" && pwd)
	tag=$(base_ref "$dir") || die $E_USAGE "$dir has no recorded base: scripts/stack base --tree $dir, before the first commit"
	new=$(git -C "$dir" rev-parse -q --verify "${onto:-$tag}^{commit}") || die $E_USAGE "no commit '$onto' in $dir"
	git -C "$dir" cat-file -e "$new:virt/kvm" 2>/dev/null || die $E_USAGE "'$onto' is no kernel"
	undo_own_am "$dir"
	need_clean "$dir"
	[[ $(branch_of "$dir") ]] || die $E_ENV "$dir is on no branch: git -C $dir checkout BRANCH, then again"
	[[ ! $dir -ef $LINUX || $(branch_of "$dir") == stack ]] ||
		die $E_ENV "$dir is on $(branch_of "$dir"), not on \"stack\": git -C $dir checkout stack, then again"
	if [[ $undo ]]; then
		undo_rebase "$dir"
		return
	fi
	old=$(stands_on "$dir" "$tag")
	n=$(git -C "$dir" rev-list --count "$old..HEAD")
	if [[ $old == "$new" ]]; then
		say "$n commits stand on $(git -C "$dir" log -1 --format='%h %s' "$new") already"
		return
	fi

	git -C "$dir" tag "stack-before-$(date +%Y%m%d-%H%M%S)" HEAD
	note_refs "$dir" "$tag" "$old" >"$(before_of "$dir").new"
	say "$n commits of $dir onto $(git -C "$dir" log -1 --format='%h %s' "$new")"
	if ! rebase_topics "$dir" "$(at_the_end "$dir" "$tag" "$onto" "$new")" \
		--empty=drop --onto "$new" "$old" >"$BUILD/rebase.log" 2>&1; then
		[[ -d $(git -C "$dir" rev-parse --absolute-git-dir)/rebase-merge ]] ||
			die $E_ENV "git rebase failed in $dir: $(grep -m1 -E '^(error|fatal):' "$BUILD/rebase.log" || tail -n 1 "$BUILD/rebase.log")"
		printf 'stack: conflict in: %s\n' "$(git -C "$dir" diff --name-only --diff-filter=U | paste -sd' ')" >&2
		printf 'stack: edit, git -C %s add FILE..., git -C %s rebase --continue; or rebase --abort\n' "$dir" "$dir" >&2
		printf 'stack: when it is through: scripts/stack export\n' >&2
		die $E_STACK "stopped at: $(git -C "$dir" log -1 --format=%s REBASE_HEAD)"
	fi
	say "$(git -C "$dir" rev-list --count "$new..HEAD") of $n commits are there; scripts/stack export writes them to patches/"
}

# stands_on DIR TAG: the commit that the stack of DIR stands on, though TAG may have moved on.
stands_on() {
	local commit

	for commit in "$(git -C "$1" rev-parse "$2^{commit}")" "$(recorded_base "$1")"; do
		if [[ $commit ]] && git -C "$1" merge-base --is-ancestor "$commit" HEAD; then
			echo "$commit"
			return
		fi
	done
	# What scripts/stack base imports has no parents.
	commit=$(git -C "$1" rev-list --max-parents=0 HEAD)
	[[ $(git -C "$1" log -1 --format=%ae "$commit" 2>/dev/null) == base@localhost ]] ||
		die $E_ENV "cannot tell where the stack of $1 begins: git -C $1 rebase --update-refs --onto $2 OLDBASE"
	echo "$commit"
}

# at_the_end DIR TAG REF COMMIT: the command that moves the base, notes which one build/linux has, if it isn't
# a package's, and lets --undo know.
at_the_end() {
	printf 'git update-ref %q %q && mv -f %q %q' "refs/tags/$2" "$4" "$(before_of "$1").new" "$(before_of "$1")"
	[[ ! $1 -ef $LINUX || ! $3 ]] || printf ' && echo %q >%q' "$3 (${4:0:12})" "$BUILD/base-version"
}

# before_of DIR: the file that says how the last rebase found it.
before_of() {
	printf '%s/stack-before\n' "$(git -C "$1" rev-parse --absolute-git-dir)"
}

# note_refs DIR TAG OLDBASE: the refs that a rebase moves, "COMMIT REF" each, and which base build/linux has.
note_refs() {
	local version

	printf '%s refs/tags/%s\n' "$3" "$2"
	git -C "$1" for-each-ref --format='%(objectname) %(refname)' "refs/heads/$(branch_of "$1")" refs/heads/topic/
	[[ $1 -ef $LINUX ]] || return 0
	# If scripts/stack base has moved on, its file names the new one.
	version=$(git -C "$1" log -1 --author=base@localhost --format=%s "$3^!")
	version=${version#Linux }
	printf 'version %s\n' "${version:-$(cat "$BUILD/base-version")}"
}

# undo_rebase DIR
undo_rebase() {
	local dir=$1 file commit ref

	file=$(before_of "$dir")
	[[ -f $file ]] || die $E_USAGE "no rebase of $dir got through that could be undone"
	cut -d' ' -f2 "$file" | grep -qxF "refs/heads/$(branch_of "$dir")" || die $E_ENV "$dir is on $(branch_of "$dir"), which the last rebase didn't move"
	git -C "$dir" tag "stack-undone-$(date +%Y%m%d-%H%M%S)" HEAD
	while read -r commit ref; do
		case $ref in
		refs/heads/"$(branch_of "$dir")") git -C "$dir" reset -q --hard "$commit" ;;
		refs/*) git -C "$dir" update-ref "$ref" "$commit" ;;
		*) printf '%s\n' "$ref" >"$BUILD/base-version" ;;
		esac
	done <"$file"
	rm -f "$file"
	say "$dir is as it was before the last rebase, on $(git -C "$dir" log -1 --format='%h %s' "$(base_ref "$dir")")"
}

# rebase_topics DIR COMMAND ARG...: git rebase ARG..., which takes the topic branches along, and no
# other; once it got through, it runs COMMAND.
rebase_topics() {
	local dir=$1
	shift

	# shellcheck disable=SC2016 # git's shell expands it
	STACK_LAST=$1 GIT_SEQUENCE_EDITOR='f() {
		sed -i "/^update-ref /{/ refs\/heads\/topic\//!d}" "$1"
		[ -z "$STACK_LAST" ] || echo "exec $STACK_LAST" >>"$1"
	}; f' git -C "$dir" rebase -q -i --update-refs "${@:2}"
}
