# shellcheck shell=bash
# Source trees by name, as git tree objects of build/linux, and the checkouts they are built in.
# Sourced by ci/kernel and ci/selftests, after scripts/common.sh.

LINUX=$BUILD/linux

# snapshot: the tree object of build/linux as it stands, uncommitted and new files included.
snapshot() {
	local index

	index=$(mktemp "$BUILD/snapshot.XXXXXX")
	cp "$LINUX/.git/index" "$index"
	# Debian's .gitignore ignores every new file, hence -f. Builds leave nothing there, editors and
	# patch do.
	GIT_INDEX_FILE=$index git -C "$LINUX" -c core.autocrlf=false add -A -f . \
		':!*.o' ':!*.rej' ':!*.orig' ':!*~' ':!*.sw[op]' ':!tags' ':!cscope.*'
	GIT_INDEX_FILE=$index git -C "$LINUX" write-tree
	rm -f "$index"
}

# with_files TREE PREFIX DIR: TREE with the files of DIR laid over PREFIX.
with_files() {
	local index files

	index=$(mktemp "$BUILD/overlay.XXXXXX")
	mapfile -t files < <(cd "$3" && find . -type f -name '*.[chS]' -printf '%P\n')
	GIT_INDEX_FILE=$index git -C "$LINUX" read-tree "$1"
	paste -d' ' <(cd "$3" && printf '%s\n' "${files[@]}" | git --git-dir="$LINUX/.git" hash-object -w --stdin-paths) \
		<(printf '%s\n' "${files[@]}") | sed "s,^\([0-9a-f]*\) ,100644 \1\t$2/," |
		GIT_INDEX_FILE=$index git -C "$LINUX" update-index --index-info
	GIT_INDEX_FILE=$index git -C "$LINUX" write-tree
	rm -f "$index"
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
	GIT_INDEX_FILE=$index git -C "$LINUX" write-tree
	rm -f "$index"
}

# resolve_tree NAME: the tree object for base, stack, a commit or tree of build/linux, each
# optionally followed by +MUTATION.
resolve_tree() {
	local name=${1%%+*} tree

	[[ -d $LINUX/.git ]] || die $E_ENV "no base tree yet: run scripts/stack base"
	if [[ $name == stack ]]; then
		tree=$(snapshot)
	else
		tree=$(git -C "$LINUX" rev-parse -q --verify "$name^{tree}") ||
			die $E_USAGE "no kernel '$name': base, stack, or a commit of $LINUX"
	fi
	if [[ $1 == *+* ]]; then
		[[ -f $ROOT/ci/mutations/${1#*+}.patch ]] || die $E_USAGE "no mutation '${1#*+}' in ci/mutations"
		tree=$(with_patch "$tree" "$ROOT/ci/mutations/${1#*+}.patch")
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
# TREE; only files that differ are written.
checkout_tree() {
	local src=$BUILD/$2

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
