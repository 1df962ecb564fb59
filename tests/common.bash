# shellcheck shell=bash
# Shared by the .bats files: a copy of the programs with files of the test's own around them.

# shellcheck source=scripts/environment.sh
. "$BATS_TEST_DIRNAME/../scripts/environment.sh"
# Tests say who commits.
unset GIT_{AUTHOR,COMMITTER}_{NAME,EMAIL}

REAL=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
REAL_BUILD=${KVM_STACK_BUILD:-$REAL/build} REAL_CACHE=${KVM_STACK_CACHE-}

# copy_project: PROJECT becomes a copy of the repository, without build/ and patches. It builds below the
# test's directory, where programs are compiled once for all tests.
copy_project() {
	PROJECT=$BATS_TEST_TMPDIR/project
	mkdir -p "$PROJECT/patches"
	cp -r "$REAL"/{BASE,series,selftests,scripts,ci,docs,Makefile,README.md} "$PROJECT/"
	export KVM_STACK_BUILD=$BATS_TEST_TMPDIR/build KVM_STACK_CACHE=$BATS_TEST_TMPDIR/cache
	mkdir -p "$KVM_STACK_BUILD" "$KVM_STACK_CACHE" "$BATS_SUITE_TMPDIR/bin"
	touch "$KVM_STACK_BUILD/.kvm-mmu-stack" "$KVM_STACK_CACHE/.kvm-mmu-stack"
	ln -s "$BATS_SUITE_TMPDIR/bin" "$KVM_STACK_BUILD/bin"
}

# whole_project: the same, with the patches, and builds where the repository does.
whole_project() {
	copy_project
	cp "$REAL"/patches/*.patch "$PROJECT/patches/"
	export KVM_STACK_BUILD=$REAL_BUILD KVM_STACK_CACHE=$REAL_CACHE
}

# once NAME FUNCTION: what FUNCTION makes of build/linux and the project's patches: made by the first test
# that wants it, and copied by all others.
once() {
	local kept=$BATS_SUITE_TMPDIR/$1

	if [[ -d $kept ]]; then
		rm -rf "$KVM_STACK_BUILD/linux" "$PROJECT"/{patches,selftests}
		cp -a "$kept/build/." "$KVM_STACK_BUILD/"
		cp -a "$kept"/{patches,selftests,series} "$PROJECT/"
		return
	fi
	"$2"
	mkdir -p "$kept.$$/build"
	cp -a "$KVM_STACK_BUILD"/{linux,base-version} "$kept.$$/build/"
	cp -a "$PROJECT"/{patches,selftests,series} "$kept.$$/"
	mv -T "$kept.$$" "$kept" 2>/dev/null || rm -rf "$kept.$$"
}

# mini_kernel DIR: just enough of a kernel tree for scripts/stack, not under git.
mini_kernel() {
	mkdir -p "$1"/{virt/kvm,scripts,tools/testing/selftests/kvm}
	touch "$1"/{Kbuild,MAINTAINERS}
	echo "VERSION = 7" >"$1/Makefile"
	seq 1 40 | sed 's/^/line /' >"$1/virt/kvm/kvm_main.c"
	echo "TEST_GEN_PROGS_x86 = a" >"$1/tools/testing/selftests/kvm/Makefile.kvm"
}

# commit_all DIR WORDS: as somebody with no configuration at all.
commit_all() {
	git -C "$1" add -A -f
	GIT_AUTHOR_DATE='2026-01-01T00:00:00Z' GIT_COMMITTER_DATE='2026-01-01T00:00:00Z' \
		git -C "$1" -c user.name=T -c user.email=t@localhost -c commit.gpgSign=false commit -q -m "$2"
}

# small_base: LINUX becomes a tree of a few files, with a base and nothing on top; the project's patches go.
small_base() {
	LINUX=$KVM_STACK_BUILD/linux
	mini_kernel "$LINUX"
	git -C "$LINUX" init -q -b stack
	commit_all "$LINUX" base
	git -C "$LINUX" tag base
	echo 1 >"$KVM_STACK_BUILD/base-version"
	find "$PROJECT/selftests" -name "*.[ch]" -delete
	printf '# head of the file\n\n# topic: one — ready\n' >"$PROJECT/series"
}

# small_stack: STACK is scripts/stack of a copy of the repository, LINUX its tree: a base, and nothing else.
small_stack() {
	copy_project
	STACK=$PROJECT/scripts/stack
	LINUX=$KVM_STACK_BUILD/linux
	once small-base small_base
}

# three_patches: commits them and exports.
three_patches() {
	once three-patches make_three_patches
}

make_three_patches() {
	sed -i 's/^line 3$/line three/' "$LINUX/virt/kvm/kvm_main.c"
	commit_all "$LINUX" "KVM: First change"
	git -C "$LINUX" branch topic/one
	sed -i 's/^line 20$/line twenty/' "$LINUX/virt/kvm/kvm_main.c"
	commit_all "$LINUX" "KVM: Second change"
	echo 'int main(void) { return 0; }' >"$LINUX/tools/testing/selftests/kvm/new_test.c"
	commit_all "$LINUX" "KVM: selftests: Third change"
	git -C "$LINUX" branch topic/two
	cp "$LINUX/tools/testing/selftests/kvm/new_test.c" "$PROJECT/selftests/"
	"$STACK" export
}

back_to_base() {
	git -C "$LINUX" checkout -q -B stack base
	git -C "$LINUX" for-each-ref --format='%(refname:short)' refs/heads/topic | xargs -r git -C "$LINUX" branch -q -D
}

# fake_maintainers: what scripts/get_maintainer.pl would say, in words of the test's own.
fake_maintainers() {
	cat >"$LINUX/scripts/get_maintainer.pl" <<-'E'
		#!/bin/sh
		case $* in *--nol*) echo "M <maintainer@localhost>" ;; *) echo kvm@localhost ;; esac
	E
	chmod +x "$LINUX/scripts/get_maintainer.pl"
	printf '# All\n\n## one\n\nKVM: One\n\nWhy one.\n\n## two\n\nKVM: Two\n\nWhy\ntwo.\n\n| a | b |\n|---|---|\n' >"$PROJECT/COVER-LETTER.md"
}

# walk NAME: runs, in the copy, what the README shows under "walk: NAME".
walk() {
	awk -v mark="<!-- walk: $1 -->" '$0 == mark { found = 1 } found && /^```$/ { exit } p { print }
		found && /^```sh$/ { p = 1 }' "$PROJECT"/{README.md,docs/*.md} >"$BATS_TEST_TMPDIR/walk"
	[[ -s $BATS_TEST_TMPDIR/walk ]] || { echo "the README shows no '$1'"; return 1; }
	(cd "$PROJECT" && KVM_STACK_REPORT=$BATS_TEST_TMPDIR/report bash -e "$BATS_TEST_TMPDIR/walk")
}

# no_network [WORDS]: apt-get says so, at once.
no_network() {
	mkdir -p "$BATS_TEST_TMPDIR/bin"
	printf '#!/bin/sh\necho "%s"\nexit 100\n' "${1-W: Failed to fetch http://localhost:9/ Could not connect}" >"$BATS_TEST_TMPDIR/bin/apt-get"
	chmod +x "$BATS_TEST_TMPDIR/bin/apt-get"
	PATH=$BATS_TEST_TMPDIR/bin:$PATH
}

# refute COMMAND...: fails if it succeeds. "! COMMAND" fails no test unless it comes last.
refute() {
	! "$@"
}

# fails_with CODE WORDS: the last run ended so, and its last line says WORDS.
fails_with() {
	if [[ $status != "$1" || ${lines[-1]} != *"$2"* ]]; then
		printf 'exit %s, wanted %s; last line:\n%s\nwanted:\n%s\nall:\n%s\n' "$status" "$1" "${lines[-1]}" "$2" "$output"
		return 1
	fi
}

# fake_bed: ci/run of a copy of the repository, with the emulator of tests/fake, which needs no kernel:
# IMAGE is one by its looks, PROGRAM a static program. scene() says what happens in the "VM".
fake_bed() {
	copy_project
	RUN=$PROJECT/ci/run
	REPORT=$BATS_TEST_TMPDIR/report
	IMAGE=$BATS_TEST_TMPDIR/bzImage
	PROGRAM=$BATS_TEST_TMPDIR/program
	export FAKE=$BATS_TEST_TMPDIR/fake KVM_CI_DEVICE=/dev/null/none
	PATH=$BATS_TEST_DIRNAME/fake:$PATH
	mkdir -p "$FAKE"
	if [[ ! -e $BATS_SUITE_TMPDIR/program ]]; then
		# Never run, and packed for each VM: the smaller, the better.
		gcc -static -nostdlib -o "$PROGRAM" -x c - <<<'void _start(void) { }'
		cp "$PROGRAM" "$BATS_SUITE_TMPDIR/program.$$"
		mv "$BATS_SUITE_TMPDIR/program.$$" "$BATS_SUITE_TMPDIR/program"
	fi
	cp "$BATS_SUITE_TMPDIR/program" "$PROGRAM"
	head -c 4096 /dev/zero >"$IMAGE"
	printf HdrS | dd of="$IMAGE" bs=1 seek=514 conv=notrunc status=none
}

make_fake_trees() {
	local n

	small_base
	for n in 3 13 23; do
		sed -i "s/^line $n$/changed $n/" "$LINUX/virt/kvm/kvm_main.c"
		commit_all "$LINUX" "KVM: Change line $n"
	done
	git -C "$LINUX" branch topic/one
	"$PROJECT/scripts/stack" export
}

# fake_trees: for the runs of a bed that build: a base, a stack of three patches, and stubs for
# ci/kernel, whose kernels are IMAGE, and ci/selftests, whose programs are PROGRAM.
fake_trees() {
	LINUX=$KVM_STACK_BUILD/linux
	once fake-trees make_fake_trees
	mkdir -p "$BATS_TEST_TMPDIR/kernel" "$BATS_TEST_TMPDIR/selftests"
	cp "$IMAGE" "$BATS_TEST_TMPDIR/kernel/"
	cp "$PROGRAM" "$BATS_TEST_TMPDIR/selftests/"
	printf '#!/bin/sh\necho "$*" >>"%s/built"\necho "%s/kernel"\n' "$FAKE" "$BATS_TEST_TMPDIR" >"$PROJECT/ci/kernel"
	printf '#!/bin/sh\necho "%s/selftests"\n' "$BATS_TEST_TMPDIR" >"$PROJECT/ci/selftests"
	printf '%s\n' '# kind: correctness' 'one 10 program' 'two 10 program' 'two-more 10 program' >"$PROJECT/ci/sets/fake"
}

# scene NAME[.BOOT] LINE...: what happens, see tests/fake.
scene() {
	local name=$1
	shift

	printf '%s\n' "$@" >"$FAKE/$name"
}

# outcome TEST: of each round, in turn.
outcome() {
	awk -F'\t' -v t="$1" '{ n = $4; sub(/:.*/, "", n) } n == t { print $5 }' "$REPORT/results.tsv" | paste -sd' '
}
