#!/usr/bin/env bats
# The user's environment doesn't leak in: everything hostile at once. What the programs print and write is the
# same, and nothing of the user's is written to.

load common
load hostile

setup() {
	small_stack
	three_patches
}

@test "export, apply, rebase, check: the same bytes, whatever git is set to" {
	cp -r "$PROJECT/patches" "$PROJECT/series" "$BATS_TEST_TMPDIR/"
	hostile "$STACK" export
	diff -r "$PROJECT/patches" "$BATS_TEST_TMPDIR/patches"
	diff "$PROJECT/series" "$BATS_TEST_TMPDIR/series"
	[[ $(stat -c %a "$PROJECT/series") == 644 ]]
	back_to_base
	hostile "$STACK" apply
	[[ $(git -C "$LINUX" rev-list --count base..HEAD) == 3 ]]
	hostile "$STACK" export
	diff -r "$PROJECT/patches" "$BATS_TEST_TMPDIR/patches"
	[[ $(hostile "$STACK" status) == series ]]
	git -C "$LINUX" checkout -q --detach base
	sed -i 's/^line 5$/moved/' "$LINUX/virt/kvm/kvm_main.c"
	commit_all "$LINUX" newer
	git -C "$LINUX" tag -f base >/dev/null
	git -C "$LINUX" checkout -q stack
	run hostile "$STACK" rebase
	[[ $status == 0 && $output == *"3 of 3 commits"* ]]
	cmp "$BATS_TEST_TMPDIR/home/.gitconfig" "$BATS_TEST_TMPDIR/home/.config/git/config"
}

@test "what programs start sees none of it" {
	hostile bash -c '. "$0/scripts/common.sh"; env' "$PROJECT" >"$BATS_TEST_TMPDIR/env"
	grep -qx LC_ALL=C.UTF-8 "$BATS_TEST_TMPDIR/env"
	for name in GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_EXTERNAL_DIFF CDPATH LANGUAGE LLVM CC KCFLAGS W ARCH CROSS_COMPILE MAKEFLAGS \
		GREP_OPTIONS GREP_COLORS BASH_ENV ENV POSIXLY_CORRECT TAR_OPTIONS PERL5OPT PYTHONPATH KBUILD_OUTPUT TMPDIR QUILT_PATCHES \
		CHECKPATCH_CONFIG_DIR; do
		refute grep "^$name=" "$BATS_TEST_TMPDIR/env"
	done
}

@test "send: diff.noprefix and color.ui keep no topic from being sent" {
	fake_maintainers
	hostile "$STACK" send two -o "$BATS_TEST_TMPDIR/out" --dry-run
	grep -q '^+++ b/virt/kvm' "$BATS_TEST_TMPDIR/out"/0001*
	grep -qx 'Subject: \[PATCH 0/2\] KVM: Two' "$BATS_TEST_TMPDIR/out/0000-cover-letter.patch"
}

@test "check and send: checkpatch, codespell and get_maintainer as they come" {
	sed -i 's/^---$/Change teh line.\n---/' "$PROJECT"/patches/0001-*.patch
	# They look for their files where the kernel's own do.
	cat >"$LINUX/scripts/checkpatch.pl" <<-'E'
		for ($ENV{CHECKPATCH_CONFIG_DIR} // '.', $ENV{HOME}) { print "FILE:1: X:Y: $_\n" if -e "$_/.checkpatch.conf" }
	E
	run hostile "$STACK" check
	[[ $output == *"ok - checkpatch 0001-"* && $output != *"not ok - checkpatch"* ]] || { echo "$output"; false; }
	[[ $output == *"not ok - codespell 0001-"*"teh ==> the"* ]] || { echo "$output"; false; }
	fake_maintainers
	sed -i '2i [ ! -e ~/.get_maintainer.conf ] || exit 1' "$LINUX/scripts/get_maintainer.pl"
	hostile "$STACK" send two -o "$BATS_TEST_TMPDIR/out" --dry-run
	grep -qx 'To: M <maintainer@localhost>' "$BATS_TEST_TMPDIR/out/0001"*
}

@test "drift: the same words" {
	tree=$BATS_TEST_TMPDIR/newer
	mini_kernel "$tree"
	run "$STACK" drift --tree "$tree"
	plain=$output
	run hostile "$STACK" drift --tree "$tree"
	# The shell itself says so of a locale that is not there.
	diff <(grep -v setlocale <<<"$output") <(echo "$plain")
}

@test "the shell's own options, which POSIXLY_CORRECT would hide" {
	for _ in once again; do
		run env SHELLOPTS=noclobber:noglob BASHOPTS=failglob:nullglob:nocasematch:nocaseglob "$STACK" export
		[[ $status == 0 && $output == *"exported 3 patches"* ]] || { echo "$output"; false; }
	done
}

@test "no HOME at all" {
	run env -u HOME -u XDG_CACHE_HOME -u KVM_STACK_CACHE "$STACK" status
	[[ $status == 0 && $output == series ]]
}
