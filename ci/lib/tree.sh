# shellcheck shell=bash
# Source trees by name, as git tree objects of build/linux, and the checkouts they are built in.
# Sourced by ci/kernel and ci/selftests, after scripts/common.sh.

LINUX=$BUILD/linux

# apply_series: scripts/stack apply; APPLIED is what it says. Only that it waits is said at once.
apply_series() {
	# shellcheck disable=SC2034 # who calls it reads it
	APPLIED=$("$ROOT/scripts/stack" apply 2>&1 | tee >(grep -F --line-buffered 'waiting for' >&2 || true))
}

# snapshot: the tree object of build/linux as it stands, uncommitted and new files included.
snapshot() {
	local index

	index=$(mktemp "$BUILD/snapshot.XXXXXX")
	# With its time, by which git knows that what is as old may have been edited since.
	cp -p "$LINUX/.git/index" "$index"
	# Debian's .gitignore ignores every new file, hence -f. Builds leave nothing there, editors and
	# patch do.
	if ! GIT_INDEX_FILE=$index git -C "$LINUX" -c core.autocrlf=false add -A -f . \
		':!*.o' ':!*.rej' ':!*.orig' ':!*~' ':!*.sw[op]' ':!tags' ':!cscope.*' ||
		! GIT_INDEX_FILE=$index git -C "$LINUX" write-tree; then
		die $E_ENV "cannot take a snapshot of $LINUX: disk full?"
	fi
	rm -f "$index"
}

# with_files TREE PREFIX DIR: TREE with the files of DIR laid over PREFIX.
with_files() {
	local index files

	index=$(mktemp "$BUILD/overlay.XXXXXX")
	mapfile -t files < <(cd "$3" && find . -type f -name '*.[chS]' -printf '%P\n')
	GIT_INDEX_FILE=$index git -C "$LINUX" read-tree "$1"
	if ! paste -d' ' <(cd "$3" && printf '%s\n' "${files[@]}" | git --git-dir="$LINUX/.git" hash-object -w --stdin-paths) \
		<(printf '%s\n' "${files[@]}") | sed "s,^\([0-9a-f]*\) ,100644 \1\t$2/," |
		GIT_INDEX_FILE=$index git -C "$LINUX" update-index --index-info ||
		! GIT_INDEX_FILE=$index git -C "$LINUX" write-tree; then
		die $E_ENV "cannot lay $3 over $1: disk full?"
	fi
	rm -f "$index"
}

# differing_selftests TREE: the files of selftests/ that are others in TREE.
differing_selftests() {
	local files

	mapfile -t files < <(cd "$ROOT/selftests" && find . -type f -name '*.[chS]' -printf '%P\n')
	((${#files[@]})) || return 0
	LC_ALL=C join -t $'\t' -j 2 -o 1.2,1.1,2.1 \
		<(git -C "$LINUX" ls-tree -r "$1" tools/testing/selftests/kvm/ | sed -E 's,^[0-9]+ blob ([0-9a-f]+)\ttools/testing/selftests/kvm/,\1\t,' | sort -t $'\t' -k 2) \
		<(cd "$ROOT/selftests" && paste <(printf '%s\n' "${files[@]}" | git --git-dir="$LINUX/.git" hash-object --no-filters --stdin-paths) \
			<(printf '%s\n' "${files[@]}") | sort -t $'\t' -k 2) |
		awk -F'\t' '$2 != $3 { print $1 }'
}

# with_patch TREE PATCH: TREE with PATCH applied, without fuzz.
with_patch() {
	local index

	index=$(mktemp "$BUILD/mutant.XXXXXX")
	GIT_INDEX_FILE=$index git -C "$LINUX" read-tree "$1"
	if ! GIT_INDEX_FILE=$index git -C "$LINUX" apply --cached "$2" 2>"$BUILD/mutant.log"; then
		rm -f "$index"
		die $E_STACK "$(basename "$2") does not apply: $(head -n 1 "$BUILD/mutant.log")"
	fi
	GIT_INDEX_FILE=$index git -C "$LINUX" write-tree || die $E_ENV "cannot apply $2: disk full?"
	rm -f "$index"
}

# share_objects DIR: has build/linux find the objects of DIR's repository, and prints where they are.
share_objects() {
	local objects line known=$LINUX/.git/objects/info/alternates

	objects=$(cd "$1" && realpath "$(git rev-parse --git-path objects)")
	# Without those of repositories that are gone.
	{ cat "$known" 2>/dev/null || true; echo "$objects"; } | sort -u | while IFS= read -r line; do
		[[ ! -d $line ]] || printf '%s\n' "$line"
	done >"$known.new"
	mv "$known.new" "$known"
	printf '%s\n' "$objects"
}

# user_tree DIR [REF]: the tree object of a work tree of the user's as it stands, uncommitted and new
# files included, or of REF there. DIR is only read.
user_tree() {
	local dir=$1 objects index

	[[ -f $dir/Kbuild && -d $dir/virt/kvm ]] || die $E_USAGE "$dir is not a kernel tree"
	[[ $(git -C "$dir" rev-parse --show-toplevel 2>/dev/null) -ef $dir ]] ||
		die $E_USAGE "$dir is not a git work tree: git -C $dir init && git -C $dir add -A -f && git -C $dir commit"
	objects=$(share_objects "$dir")
	if [[ ${2-} ]]; then
		git -C "$dir" rev-parse -q --verify "$2^{tree}" || die $E_USAGE "$dir has no commit '$2'"
		return
	fi
	index=$(mktemp "$BUILD/user.XXXXXX")
	cp -p "$(cd "$dir" && realpath "$(git rev-parse --git-path index)")" "$index"
	(
		export GIT_OPTIONAL_LOCKS=0 GIT_INDEX_FILE=$index GIT_OBJECT_DIRECTORY=$LINUX/.git/objects
		export GIT_ALTERNATE_OBJECT_DIRECTORIES=$objects
		git -C "$dir" add -A . || exit
		# That of Debian ends with "/*", which ignores every new file; what it says of objects holds.
		if grep -qsx '/\*' "$dir/.gitignore"; then
			git -C "$dir" ls-files -z -o --exclude-standard -x '!/*/' | git -C "$dir" update-index -z --add --stdin || exit
		fi
		git -C "$dir" write-tree
	) || die $E_ENV "cannot take a snapshot of $dir"
	rm -f "$index"
}

# user_tree_name DIR TREE [REF]: for reports: DIR, the commit, and whether there is more to TREE.
user_tree_name() {
	printf '%s %s%s\n' "$1" "$(git -C "$1" rev-parse --short=12 "${3-HEAD}")" \
		"$([[ $2 == "$(git -C "$1" rev-parse "${3-HEAD}^{tree}")" ]] || echo -dirty)"
}

# stack_on TREE TOPICS: the tree object of the series, or of its TOPICS (names, patterns), on TREE, merged 3-way where
# it takes that. What conflicts is left out. Tells, on stderr, how each patch fares.
stack_on() {
	local index before line topic='' file state taken=0 count=0

	index=$(mktemp "$BUILD/onto.XXXXXX")
	in_index() {
		GIT_INDEX_FILE=$index git -C "$LINUX" "$@"
	}
	in_index read-tree "$1"
	while IFS= read -r line; do
		[[ $line != "# topic: "* ]] || { line=${line#\# topic: }; topic=${line%% *}; }
		[[ $line == *.patch ]] || continue
		[[ -z $2 ]] || matches "$topic" "$2" || continue
		file=$ROOT/patches/$line
		before=$(in_index write-tree)
		count=$((count + 1))
		if in_index apply --cached "$file" 2>/dev/null; then
			state=applies
		elif in_index apply --cached --check --reverse "$file" 2>/dev/null; then
			state=upstream
		elif in_index apply --cached --3way "$file" >/dev/null 2>&1 && [[ -z $(in_index ls-files -u) ]]; then
			state=3-way
		else
			in_index read-tree "$before"
			state=conflicts
		fi
		[[ $state == conflicts || $state == upstream ]] || taken=$((taken + 1))
		printf '%-10s %s\n' "$state" "$line" >&2
	done <"$ROOT/series"
	((count)) || die $E_USAGE "series has no topic of ${2//,/, }; there are: $(sed -n 's/^# topic: \([a-z0-9-]*\) .*/\1/p' "$ROOT/series" | paste -sd' ')"
	((taken)) || die $E_STACK "nothing of the stack applies there"
	say "$taken of $count patches are on top"
	in_index write-tree
	rm -f "$index"
}

# resolve_tree NAME: the tree object for base, stack, a commit or tree of build/linux, each
# optionally followed by +MUTATION.
resolve_tree() {
	local name=${1%%+*} tree

	[[ -d $LINUX/.git ]] || die $E_ENV "no base tree yet: run scripts/stack base"
	if [[ $name == stack ]]; then
		tree=$(snapshot) || exit $?
	else
		tree=$(git -C "$LINUX" rev-parse -q --verify "$name^{tree}") ||
			die $E_USAGE "no kernel '$name': base, stack, or a commit of $LINUX"
	fi
	if [[ $1 == *+* ]]; then
		[[ -f $ROOT/ci/mutations/${1#*+}.patch ]] || die $E_USAGE "no mutation '${1#*+}' in ci/mutations"
		tree=$(with_patch "$tree" "$ROOT/ci/mutations/${1#*+}.patch") || exit $?
	fi
	printf '%s\n' "$tree"
}

# kernel_sources TREE ARCH: names all that a build of TREE for ARCH may read. Selftests,
# documentation, and what is another architecture's are left out, so that a change there finds the
# image in the cache.
kernel_sources() {
	local others

	others=$(printf '%s\n' arm64 riscv x86 | grep -vx "${2%_64}" | paste -sd'|')
	git -C "$LINUX" ls-tree "$1" | grep -vE $'\t(Documentation|arch|tools)$'
	git -C "$LINUX" ls-tree "$1:tools" | grep -vE $'\ttesting$'
	git -C "$LINUX" ls-tree "$1:arch" | grep -vE $'\t('"$others"')$'
}

# toolchain_id COMPILER [BINUTILS-PREFIX]: all versions that what it builds may depend on.
toolchain_id() {
	"$1" --version | head -n 1
	"${2-${1%gcc}}ld" --version | head -n 1
	"${2-${1%gcc}}as" --version | head -n 1
}

# cpu_seconds: what this program and all it has waited for have used, user and system.
cpu_seconds() {
	awk '{ printf "%d\n", ($14 + $15 + $16 + $17) / 100 }' "/proc/$$/stat"
}

# checkout_tree TREE NAME: waits for build/NAME, keeps it until the program ends, and makes it hold
# TREE; only files that differ are written. What compiles there is run with 9>&-: a compiler cache's daemon,
# which it may begin, would keep the lock.
checkout_tree() {
	local src=$BUILD/$2

	[[ $src != *[[:space:]:]* ]] ||
		die $E_ENV "kbuild takes no blanks or colons in a path, and builds would be in $BUILD: set KVM_STACK_BUILD"
	exec 9>"$src.lock"
	if ! flock -n 9; then
		say "waiting for build/$2, which another build uses"
		flock 9
	fi
	if [[ ! -e $src/.git ]]; then
		say "checking out build/$2"
		rm -rf "$src"
		git -C "$LINUX" worktree prune
		git -C "$LINUX" -c advice.detachedHead=false worktree add -q --detach "$src" base ||
			die $E_ENV "cannot check out $src: disk full?"
	fi
	rm -f "$LINUX/.git/worktrees/$2/index.lock"
	git -C "$src" read-tree --reset -u "$1" || die $E_ENV "cannot check out $src: disk full?"
}
