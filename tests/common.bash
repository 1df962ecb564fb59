# shellcheck shell=bash
# Shared by the .bats files: a copy of the programs with files of the test's own around them.

REAL=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
REAL_BUILD=${KVM_STACK_BUILD:-$REAL/build}

# copy_project: PROJECT becomes a copy of the repository, without build/.
copy_project() {
	PROJECT=$BATS_TEST_TMPDIR/project
	mkdir -p "$PROJECT"
	cp -r "$REAL"/{BASE,series,patches,selftests,scripts,ci,Makefile,README.md} "$PROJECT/"
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

# walk NAME: runs, in the copy, what the README shows under "walk: NAME".
walk() {
	awk -v mark="<!-- walk: $1 -->" '$0 == mark { found = 1 } found && /^```$/ { exit } p { print }
		found && /^```sh$/ { p = 1 }' "$PROJECT/README.md" >"$BATS_TEST_TMPDIR/walk"
	[[ -s $BATS_TEST_TMPDIR/walk ]] || { echo "the README shows no '$1'"; return 1; }
	(cd "$PROJECT" && KVM_STACK_REPORT=$BATS_TEST_TMPDIR/report bash -e "$BATS_TEST_TMPDIR/walk")
}

# fails_with CODE WORDS: the last run ended so, and its last line says WORDS.
fails_with() {
	if [[ $status != "$1" || ${lines[-1]} != *"$2"* ]]; then
		printf 'exit %s, wanted %s; last line:\n%s\nwanted:\n%s\nall:\n%s\n' "$status" "$1" "${lines[-1]}" "$2" "$output"
		return 1
	fi
}
