# shellcheck shell=bash
# scripts/stack export [--tree DIR] [--force] - commits -> patches/, series and selftests/
#
# The commits since the base, as files, the same bytes on any machine. A branch topic/NAME marks the
# last commit of a topic.
#
# selftests/ and the commits that add its files follow each other: a file that was edited here is
# folded into its commit, one that was edited there is copied here. If both were, it says where, and
# writes nothing; so it does where a patch would be lost: one that the tree never had, or that has
# been edited in patches/, or pulled, since apply or export. --force writes it over.

# Where a file of selftests/ lives in the kernel tree.
readonly KSELFTEST=tools/testing/selftests/kvm

# sync_selftests DIR BASE: what was edited on one side only, goes to the other one.
sync_selftests() {
	local dir=$1 base=$2 file commit last='' fold=() copy=() ours theirs

	last=$(recorded_commit "$dir")
	while read -r file; do
		theirs=$(git -C "$dir" rev-parse -q --verify "HEAD:$KSELFTEST/$file") || true
		if [[ ! -f $ROOT/selftests/$file ]]; then
			# One that the tree adds, unless it was removed here.
			grep -qs "  selftests/$file\$" "$(record_of "$dir")" || copy+=("$file")
			continue
		fi
		ours=$(git -C "$dir" hash-object --no-filters "$ROOT/selftests/$file")
		[[ $ours != "$theirs" ]] || continue
		[[ $theirs || $(git -C "$dir" log -1 --format=%H "$base..HEAD" -- "$KSELFTEST/$file") ]] ||
			die $E_STACK "selftests/$file is in no commit of $dir: commit $KSELFTEST/$file there with its Makefile.kvm line, then export"
		if unedited "$dir" "selftests/$file"; then
			[[ $theirs ]] || die $E_STACK "$KSELFTEST/$file is gone from $dir: remove selftests/$file as well, then export"
			copy+=("$file")
		elif [[ $last && $theirs == "$(git -C "$dir" rev-parse -q --verify "$last:$KSELFTEST/$file")" ]]; then
			fold+=("$file")
		else
			die $E_STACK "selftests/$file and $dir were both edited: diff $ROOT/selftests/$file $dir/$KSELFTEST/$file, make them agree, then export"
		fi
	done < <({ (cd "$ROOT/selftests" && find . -type f -name '*.[chS]' -printf '%P\n')
		git -C "$dir" diff-tree -r --no-renames --diff-filter=A --name-only "$base" HEAD -- "$KSELFTEST" |
			sed -n "s,^$KSELFTEST/\\(.*\\.[chS]\\)$,\\1,p"; } | sort -u)

	for file in ${fold[@]+"${fold[@]}"}; do
		commit=$(git -C "$dir" log -1 --format=%H "$base..HEAD" -- "$KSELFTEST/$file")
		[[ $commit ]] || die $E_STACK "selftests/$file is in no commit of $dir: commit $KSELFTEST/$file there, then export"
		say "folding selftests/$file into $(git -C "$dir" log -1 --format='%h %s' "$commit")"
		mkdir -p "$(dirname "$dir/$KSELFTEST/$file")"
		cp "$ROOT/selftests/$file" "$dir/$KSELFTEST/$file"
		git -C "$dir" add -f "$KSELFTEST/$file"
		git -C "$dir" commit -q --fixup="$commit"
	done
	if ((${#fold[@]})); then
		rebase_topics "$dir" '' --autosquash "$base" ||
			die $E_STACK "cannot fold selftests/ in: resolve in $dir, git rebase --continue, then export again"
	fi
	for file in ${copy[@]+"${copy[@]}"}; do
		say "copying selftests/$file from $dir"
		mkdir -p "$(dirname "$ROOT/selftests/$file")"
		git -C "$dir" show "HEAD:$KSELFTEST/$file" >"$ROOT/selftests/$file"
	done
}

# write_patches DIR BASE OUT: format-patch, the same bytes on any machine. Of format.noprefix, git 2.41 and later
# see whether it is there and not what it says, hence the prefixes.
write_patches() {
	git -C "$1" -c core.abbrev=40 format-patch -q --zero-commit --no-signature --no-numbered --no-attach --no-thread --no-from \
		--no-notes --no-base --no-to --no-cc --no-add-header --no-ext-diff --no-textconv --full-index \
		--src-prefix=a/ --dst-prefix=b/ --stat=72 -o "$3" "$2..HEAD"
}

# write_series DIR BASE OUT: the series file for the patches of OUT, topics by topic/* branches.
write_series() {
	local dir=$1 base=$2 out=$3 ref commit commits marks topic names i j

	declare -A marks=()
	while read -r commit ref; do
		if ! git -C "$dir" merge-base --is-ancestor "$commit" HEAD; then
			die $E_STACK "branch $ref is not in the history of HEAD: git -C $dir branch -f $ref COMMIT, or -D"
		fi
		# One that ends in the base, or where one before it ends, has lost its patches to that.
		if git -C "$dir" merge-base --is-ancestor "$commit" "$base" ||
			[[ ${marks[$commit]+set} && " ${TOPICS[*]} " == *" ${marks[$commit]} "*" ${ref#topic/} "* ]]; then
			say "topic ${ref#topic/} has no patches any more: git -C $dir branch -D $ref"
			continue
		fi
		marks[$commit]=${ref#topic/}
	done < <(git -C "$dir" for-each-ref --format='%(objectname) %(refname:short)' refs/heads/topic/)

	mapfile -t commits < <(git -C "$dir" rev-list --reverse "$base..HEAD")
	mapfile -t names < <(cd "$out/patches" && find . -name '*.patch' -printf '%P\n' | sort)

	sed '/^# topic:/,$d' "$ROOT/series"
	for ((i = 0; i < ${#commits[@]}; )); do
		# The topic of commit i is the next mark at or after it, or the last topic there is.
		topic=
		for ((j = i; j < ${#commits[@]}; j++)); do
			[[ ${marks[${commits[j]}]+set} ]] && { topic=${marks[${commits[j]}]}; break; }
		done
		if [[ -z $topic ]]; then
			topic=${last_topic-}
			[[ $topic ]] || die $E_STACK "no topic/NAME branch marks the commits of $dir: git -C $dir branch topic/NAME"
			j=$((${#commits[@]} - 1))
		fi
		if [[ $topic != "${last_topic-}" ]]; then
			((i == 0)) || echo
			printf '# topic: %s — %s\n' "$topic" "${STATUS_OF[$topic]-draft}"
		fi
		for (( ; i <= j; i++)); do
			printf '%s\n' "${names[i]}"
		done
		local last_topic=$topic
	done
}

# need_nothing_lost DIR OUT: whatever patches/ holds is in OUT, too, or was made from DIR, or for it.
need_nothing_lost() {
	local file

	while read -r file; do
		cmp -s "$ROOT/patches/$file" "$2/patches/$file" || unedited "$1" "patches/$file" ||
			die $E_STACK "patches/$file would be lost: $1 does not come from it; see git diff patches/, or apply first; --force writes it over"
	done < <(cd "$ROOT/patches" && find . -name '*.patch' -printf '%P\n' | sort)
}

verb_export() {
	local dir=$LINUX base force=''

	while (($#)); do
		case $1 in
		--tree) dir=${2-}; shift 2 || die $E_USAGE "--tree wants a directory" ;;
		--force) force=1; shift ;;
		*) die $E_USAGE "export: unknown option '$1'" ;;
		esac
	done
	[[ $dir == "$LINUX" ]] && need_base
	need_tree "$dir"
	dir=$(cd "$dir" && pwd)
	undo_own_am "$dir"
	need_clean "$dir"
	base=$(base_ref "$dir") || die $E_USAGE "$dir has no recorded base: scripts/stack base --tree $dir, before the first commit"
	git -C "$dir" merge-base --is-ancestor "$base" HEAD ||
		die $E_ENV "HEAD of $dir does not stand on $base: if that has moved, scripts/stack rebase"
	[[ $(git -C "$dir" rev-list --count "$base..HEAD") != 0 ]] || die $E_STACK "$dir has no commits since $base: nothing to export"
	[[ -z $(git -C "$dir" rev-list --merges -n 1 "$base..HEAD") ]] || die $E_STACK "$dir has a merge since $base, which is no patch: git -C $dir rebase --update-refs $base"

	read_series
	scratch
	mkdir "$SCRATCH/patches"
	write_patches "$dir" "$base" "$SCRATCH/patches"
	[[ $force ]] || need_nothing_lost "$dir" "$SCRATCH"
	sync_selftests "$dir" "$base"
	rm -r "$SCRATCH/patches" && mkdir "$SCRATCH/patches"
	write_patches "$dir" "$base" "$SCRATCH/patches"
	[[ $(find "$SCRATCH/patches" -type f | wc -l) == "$(git -C "$dir" rev-list --count "$base..HEAD")" ]] ||
		die $E_ENV "git format-patch of $dir did not write a file for each commit: nothing was exported"
	write_series "$dir" "$base" "$SCRATCH" >"$SCRATCH/series"
	find "$ROOT/patches" -name '*.patch' -delete
	mv "$SCRATCH/patches/"*.patch "$ROOT/patches/"
	mv "$SCRATCH/series" "$ROOT/series"
	mapfile -t PATCHES < <(cd "$ROOT/patches" && find . -name '*.patch' -printf '%P\n' | sort)
	record "$dir" "$base" "${PATCHES[@]}"
	say "exported ${#PATCHES[@]} patches"
}
