# shellcheck shell=bash
# Sourced by scripts/stack, whose --help says what the verb takes and does.

# Where a file of selftests/ lives in the kernel tree.
readonly KSELFTEST=tools/testing/selftests/kvm

# sync_selftests DIR BASE: folds selftests/ into the commits that touch the same files.
sync_selftests() {
	local dir=$1 base=$2 file commit changed=

	while read -r file; do
		cmp -s "$ROOT/selftests/$file" "$dir/$KSELFTEST/$file" && continue
		commit=$(git -C "$dir" log -1 --format=%H "$base..HEAD" -- "$KSELFTEST/$file")
		[[ $commit ]] || die $E_STACK "selftests/$file is in no commit of $dir: commit $KSELFTEST/$file there with its Makefile.kvm line, then export"
		say "folding selftests/$file into $(git -C "$dir" log -1 --format='%h %s' "$commit")"
		mkdir -p "$(dirname "$dir/$KSELFTEST/$file")"
		cp "$ROOT/selftests/$file" "$dir/$KSELFTEST/$file"
		kgit -C "$dir" add -f "$KSELFTEST/$file"
		kgit -C "$dir" commit -q --fixup="$commit"
		changed=1
	done < <(cd "$ROOT/selftests" && find . -type f -name '*.[chS]' -printf '%P\n' | sort)
	if [[ $changed ]]; then
		GIT_SEQUENCE_EDITOR=: kgit -C "$dir" rebase -q -i --autosquash --update-refs "$base" ||
			die $E_STACK "cannot fold selftests/ in: resolve in $dir, git rebase --continue, then export again"
	fi
}

# write_patches DIR BASE OUT: format-patch, the same bytes on any machine.
write_patches() {
	kgit -C "$1" -c core.abbrev=40 -c diff.noprefix=false -c diff.mnemonicPrefix=false \
		-c diff.algorithm=myers -c diff.renames=true -c diff.context=3 -c format.signOff=false \
		-c diff.suppressBlankEmpty=false \
		format-patch -q --zero-commit --no-signature --no-numbered --no-attach --no-thread --no-from \
		--no-notes --no-base --no-to --no-cc --no-add-header --subject-prefix=PATCH --full-index \
		--stat=72 -o "$3" "$2..HEAD"
}

# write_series DIR BASE OUT: the series file for the patches of OUT, topics by topic/* branches.
write_series() {
	local dir=$1 base=$2 out=$3 ref commit commits marks topic names i j

	declare -A marks=()
	while read -r commit ref; do
		if ! git -C "$dir" merge-base --is-ancestor "$commit" HEAD; then
			die $E_STACK "branch $ref is not in the history of HEAD: git -C $dir branch -f $ref COMMIT, or -D"
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

verb_export() {
	local dir=$LINUX base out

	while (($#)); do
		case $1 in
		--tree) dir=${2-}; shift 2 || die $E_USAGE "--tree wants a directory" ;;
		*) die $E_USAGE "export: unknown option '$1'" ;;
		esac
	done
	[[ $dir == "$LINUX" ]] && need_base
	need_tree "$dir"
	need_clean "$dir"
	base=$(base_ref "$dir") || die $E_USAGE "$dir has no recorded base: scripts/stack base --tree $dir, before the first commit"
	git -C "$dir" merge-base --is-ancestor "$base" HEAD || die $E_ENV "HEAD of $dir does not stand on $base"
	[[ $(git -C "$dir" rev-list --count "$base..HEAD") != 0 ]] || die $E_STACK "$dir has no commits since $base: nothing to export"

	read_series
	sync_selftests "$dir" "$base"
	out=$(mktemp -d "$BUILD/export.XXXXXX")
	mkdir "$out/patches"
	write_patches "$dir" "$base" "$out/patches"
	write_series "$dir" "$base" "$out" >"$out/series"
	find "$ROOT/patches" -name '*.patch' -delete
	mv "$out/patches/"*.patch "$ROOT/patches/"
	mv "$out/series" "$ROOT/series"
	rm -rf "$out"
	say "exported $(git -C "$dir" rev-list --count "$base..HEAD") patches"
}
