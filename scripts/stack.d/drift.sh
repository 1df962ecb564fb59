# shellcheck shell=bash
# Sourced by scripts/stack, whose --help says what the verb takes and does.

verb_drift() {
	local tree='' tmp p file state count=0
	local -A n=([applies]=0 [3-way]=0 [conflicts]=0 [upstream]=0)

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

	# Only the files that the patches touch matter; the base's objects serve the 3-way merge.
	tmp=$(mktemp -d "$BUILD/drift.XXXXXX")
	kgit -C "$tmp" init -q
	printf '%s\n' "$LINUX/.git/objects" >"$tmp/.git/objects/info/alternates"
	for p in "${PATCHES[@]}"; do
		git apply --numstat "$ROOT/patches/$p" | cut -f3
	done | sort -u | while read -r file; do
		if [[ -f $tree/$file ]]; then
			mkdir -p "$tmp/$(dirname "$file")"
			cp "$tree/$file" "$tmp/$file"
		fi
	done
	kgit -C "$tmp" add -A -f .
	GIT_AUTHOR_NAME=x GIT_AUTHOR_EMAIL=x GIT_COMMITTER_NAME=x GIT_COMMITTER_EMAIL=x \
		kgit -C "$tmp" commit -q --allow-empty -m drift

	for p in "${PATCHES[@]}"; do
		count=$((count + 1))
		if kgit -C "$tmp" apply --check --index "$ROOT/patches/$p" 2>/dev/null; then
			kgit -C "$tmp" apply --index "$ROOT/patches/$p" 2>/dev/null
			state=applies
		elif kgit -C "$tmp" apply --check --index --reverse "$ROOT/patches/$p" 2>/dev/null; then
			state=upstream
		elif kgit -C "$tmp" apply --3way --index "$ROOT/patches/$p" >/dev/null 2>&1 &&
			[[ -z $(git -C "$tmp" ls-files -u) ]]; then
			state=3-way
		else
			kgit -C "$tmp" reset -q --hard
			state=conflicts
		fi
		# What applied is the ground for the next patch, also after a reset.
		GIT_AUTHOR_NAME=x GIT_AUTHOR_EMAIL=x GIT_COMMITTER_NAME=x GIT_COMMITTER_EMAIL=x \
			kgit -C "$tmp" commit -q --allow-empty -m "$p"
		n[$state]=$((n[$state] + 1))
		printf '%-10s %s\n' "$state" "$p"
	done
	rm -rf "$tmp"
	printf '%d patches: %d apply, %d 3-way, %d conflict, %d upstream\n' $count \
		"${n[applies]}" "${n[3-way]}" "${n[conflicts]}" "${n[upstream]}"
	((n[conflicts] == 0)) || exit $E_STACK
}
