#!/usr/bin/env bats
# ci/run on a kernel tree of the user's: which sources are built, and that the tree is only read. With an
# emulator that is a script, see tests/fake.

load common

setup() {
	fake_bed
	export KVM_STACK_REPORT=$REPORT
	fake_trees
	THEIRS="$BATS_TEST_TMPDIR/their tree"
	git clone -q "$LINUX" "$THEIRS"
	git -C "$THEIRS" reset -q --hard "$(git -C "$LINUX" rev-parse base)"
	sed -i 's/^line 33$/theirs/' "$THEIRS/virt/kvm/kvm_main.c"
	commit_all "$THEIRS" "KVM: Theirs"
}

# built: the tree objects that were built, in turn, as "base" or "stack" lanes see them.
built() {
	sed -n 's/^--tree \([0-9a-f]*\) .*/\1/p' "$FAKE/built"
}

# holds TREE TEXT FILE
holds() {
	git -C "$LINUX" show "$1:$3" | grep -qx "$2"
}

# untouched: the user's tree is what it was before the test ran something.
untouched() {
	[[ $(cd "$THEIRS" && git status --porcelain; git -C "$THEIRS" rev-parse HEAD; sha256sum <"$THEIRS/virt/kvm/kvm_main.c") == "$1" ]]
}

state() {
	(cd "$THEIRS" && git status --porcelain; git -C "$THEIRS" rev-parse HEAD; sha256sum <"$THEIRS/virt/kvm/kvm_main.c")
}

@test "a tree of the user's as it stands, with what is not committed, and new files" {
	sed -i 's/^line 34$/edited/' "$THEIRS/virt/kvm/kvm_main.c"
	echo int >"$THEIRS/virt/kvm/new.c"
	before=$(state)
	run "$RUN" --tree "$THEIRS" --lane svm-tdp --test one
	[[ $status == 0 ]] || { echo "$output"; false; }
	tree=$(built)
	holds "$tree" theirs virt/kvm/kvm_main.c
	holds "$tree" edited virt/kvm/kvm_main.c
	holds "$tree" int virt/kvm/new.c
	refute holds "$tree" "changed 3" virt/kvm/kvm_main.c
	untouched "$before"
	grep -q "$THEIRS $(git -C "$THEIRS" rev-parse --short=12 HEAD)-dirty" "$REPORT/summary.md"
}

@test "a tree whose .gitignore is Debian's, which ignores every new file" {
	printf '%s\n' '*.o' '/*' >"$THEIRS/.gitignore"
	commit_all "$THEIRS" "as Debian's package has it"
	echo int >"$THEIRS/virt/kvm/new.c"
	touch "$THEIRS/virt/kvm/new.o"
	run "$RUN" --tree "$THEIRS" --lane svm-tdp --test one
	[[ $status == 0 ]] || { echo "$output"; false; }
	holds "$(built)" int virt/kvm/new.c
	refute git -C "$LINUX" cat-file -e "$(built):virt/kvm/new.o"
	grep -q "$THEIRS $(git -C "$THEIRS" rev-parse --short=12 HEAD)-dirty" "$REPORT/summary.md"
}

@test "a commit of the user's tree against its work tree" {
	sed -i 's/^line 34$/edited/' "$THEIRS/virt/kvm/kvm_main.c"
	run "$RUN" --tree "$THEIRS" --base HEAD --lane svm-tdp --test one
	[[ $status == 0 && $(built | wc -l) == 2 ]] || { echo "$output"; false; }
	refute holds "$(built | head -n 1)" edited virt/kvm/kvm_main.c
	holds "$(built | tail -n 1)" edited virt/kvm/kvm_main.c
	grep -q "base $THEIRS" "$REPORT/summary.md"
	[[ $(cut -f2 "$REPORT/results.tsv" | paste -sd' ') == "base stack" ]]
	run "$RUN" --tree "$THEIRS" --base no-such --lane svm-tdp --test one
	fails_with 2 "$THEIRS has no commit 'no-such'"
}

@test "work trees, shallow clones, and clones that borrow their objects" {
	git -C "$THEIRS" worktree add -q "$BATS_TEST_TMPDIR/work" HEAD
	git clone -q --depth 1 "file://$THEIRS" "$BATS_TEST_TMPDIR/shallow"
	git clone -q --bare "$THEIRS" "$BATS_TEST_TMPDIR/bare"
	git clone -q --reference "$BATS_TEST_TMPDIR/bare" "$BATS_TEST_TMPDIR/bare" "$BATS_TEST_TMPDIR/borrows"
	for tree in work shallow borrows; do
		: >"$FAKE/built"
		run "$RUN" --tree "$BATS_TEST_TMPDIR/$tree" --lane svm-tdp --test one
		[[ $status == 0 ]] || { echo "$output"; false; }
		holds "$(built)" theirs virt/kvm/kvm_main.c
	done
	# What is gone is no longer looked for.
	rm -rf "$BATS_TEST_TMPDIR/shallow"
	run "$RUN" --tree "$THEIRS" --lane svm-tdp --test one
	[[ $status == 0 && $output != *"alternate object path"* ]] || { echo "$output"; false; }
}

@test "the stack on the user's tree: what applies is run, what conflicts is named and left out" {
	sed -i 's/^line 13$/theirs, too/' "$THEIRS/virt/kvm/kvm_main.c"
	commit_all "$THEIRS" "KVM: In the way of the second patch"
	before=$(state)
	run "$RUN" --onto "$THEIRS" --lane svm-tdp --test one
	[[ $status == 0 && $output == *"conflicts  0002-"* && $output == *"2 of 3 patches are on top"* ]] || { echo "$output"; false; }
	stack=$(built | tail -n 1)
	holds "$stack" "changed 3" virt/kvm/kvm_main.c
	holds "$stack" "theirs, too" virt/kvm/kvm_main.c
	holds "$stack" "changed 23" virt/kvm/kvm_main.c
	refute holds "$(built | head -n 1)" "changed 3" virt/kvm/kvm_main.c
	untouched "$before"
	grep -q "the stack on $THEIRS" "$REPORT/summary.md"
	run "$RUN" --onto "$THEIRS" --topic 't*' --lane svm-tdp --test one
	fails_with 2 "series has no topic of t*; there are: one"
}

@test "a tree that is none, and options that don't go together" {
	run "$RUN" --tree "$BATS_TEST_TMPDIR"
	fails_with 2 "$BATS_TEST_TMPDIR is not a kernel tree"
	mini_kernel "$BATS_TEST_TMPDIR/bare-tree"
	run "$RUN" --tree "$BATS_TEST_TMPDIR/bare-tree"
	fails_with 2 "is not a git work tree"
	run "$RUN" --tree "$THEIRS" --onto "$THEIRS"
	fails_with 2 "--tree goes without --onto"
	run "$RUN" --tree "$THEIRS" --kernel base
	fails_with 2 "go without --kernel"
	run "$RUN" --base HEAD
	fails_with 2 "--base goes with --tree"
	run "$RUN" --topic one
	fails_with 2 "--topic goes with --onto"
}
