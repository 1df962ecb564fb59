#!/usr/bin/env bats
# scripts/stack: what is the user's stays theirs, on a base that moves above all.

load common

setup() {
	small_stack
}

# moved_base: the newer base changes the line that the first patch changes, or, with WORDS, another one.
moved_base() {
	local commit

	git -C "$LINUX" checkout -q --detach base
	sed -i "s/^line ${1-3}$/moved ${1-3}/" "$LINUX/virt/kvm/kvm_main.c"
	commit_all "$LINUX" newer
	commit=$(git -C "$LINUX" rev-parse HEAD)
	git -C "$LINUX" tag -f base "$commit" >/dev/null
	git -C "$LINUX" checkout -q stack
}

as_t() {
	git -C "$LINUX" -c user.name=T -c user.email=t@localhost "$@"
}

@test "rebase: the base has moved, the patches merge, topics move along, export is right" {
	three_patches
	moved_base 5
	echo more >>"$LINUX/Makefile"
	commit_all "$LINUX" "KVM: Not exported yet"
	run "$STACK" apply
	fails_with 3 "scripts/stack rebase takes them along"
	run "$STACK" rebase
	[[ $status == 0 && $output == *"4 of 4 commits are there"* ]]
	git -C "$LINUX" merge-base --is-ancestor base stack
	[[ $(git -C "$LINUX" log -1 --format=%s topic/one) == "KVM: First change" ]]
	[[ $(git -C "$LINUX" log -1 --format=%s topic/two) == "KVM: selftests: Third change" ]]
	git -C "$LINUX" branch -f topic/two stack
	"$STACK" export
	[[ $(grep -v '^# head' "$PROJECT/series") == *"# topic: one — ready"*0001*"# topic: two"*0002*0003*0004-KVM-Not-exported-yet.patch ]]
	run "$STACK" rebase
	[[ $status == 0 && $output == *"already"* ]]
}

@test "rebase: a conflict is git's, and goes on by git's words" {
	three_patches
	moved_base 3
	before=$(git -C "$LINUX" rev-parse stack)
	run "$STACK" apply
	fails_with 1 "scripts/stack rebase"
	[[ $(git -C "$LINUX" rev-parse stack) == "$before" ]]
	run "$STACK" rebase
	fails_with 1 "stopped at: KVM: First change"
	[[ $output == *"conflict in: virt/kvm/kvm_main.c"* ]]
	# Nobody else has a say meanwhile.
	for verb in apply export rebase; do
		run "$STACK" $verb
		fails_with 3 "a rebase is under way"
	done
	sed -i '/^<<<<<<<\|^=======\|^>>>>>>>\|^moved 3/d' "$LINUX/virt/kvm/kvm_main.c"
	git -C "$LINUX" add -u
	GIT_EDITOR=: as_t rebase --continue
	"$STACK" export
	[[ $(grep -c '\.patch$' "$PROJECT/series") == 3 ]]
	grep -q '^-moved 3' "$PROJECT"/patches/0001-*.patch
	[[ $(git -C "$LINUX" log -1 --format=%s topic/one) == "KVM: First change" ]]
}

@test "rebase --onto: another base, and --abort leaves all as it was" {
	three_patches
	git -C "$LINUX" checkout -q --detach base
	sed -i 's/^line 20$/other 20/' "$LINUX/virt/kvm/kvm_main.c"
	commit_all "$LINUX" other
	git -C "$LINUX" branch other
	git -C "$LINUX" checkout -q stack
	old=$(git -C "$LINUX" rev-parse base) tip=$(git -C "$LINUX" rev-parse stack)
	run "$STACK" rebase --onto other
	fails_with 1 "stopped at: KVM: Second change"
	as_t rebase --abort
	[[ $(git -C "$LINUX" rev-parse stack base) == "$tip"$'\n'"$old" ]]
	run "$STACK" rebase --onto no-such-commit
	fails_with 2 "no commit 'no-such-commit'"
	git -C "$LINUX" checkout -q other
	run "$STACK" rebase
	fails_with 3 'not on "stack"'
}

@test "rebase --undo: all as it was before one that got through, and nothing is lost" {
	three_patches
	run "$STACK" rebase --undo
	fails_with 2 "no rebase of $LINUX got through"
	refs() { git -C "$LINUX" for-each-ref refs/heads refs/tags/base; cat "$KVM_STACK_BUILD/base-version"; }
	git -C "$LINUX" checkout -q --detach base
	sed -i 's/^line 40$/other 40/' "$LINUX/virt/kvm/kvm_main.c"
	commit_all "$LINUX" other
	git -C "$LINUX" branch other
	git -C "$LINUX" checkout -q stack
	before=$(refs)
	"$STACK" rebase --onto other
	[[ $(git -C "$LINUX" rev-parse base) == "$(git -C "$LINUX" rev-parse other)" && $(refs) != "$before" ]]
	echo more >>"$LINUX/Makefile"
	run "$STACK" rebase --undo
	fails_with 3 "uncommitted changes"
	commit_all "$LINUX" "KVM: Later"
	later=$(git -C "$LINUX" rev-parse HEAD)
	run "$STACK" rebase --undo
	[[ $status == 0 && $output == *"as it was before the last rebase"* ]]
	[[ $(refs) == "$before" ]]
	[[ $(git -C "$LINUX" tag --points-at "$later") == stack-undone-* ]]
	run "$STACK" apply
	[[ $status == 0 && $output == *"up to date"* ]]
	run "$STACK" rebase --undo
	fails_with 2 "no rebase of $LINUX got through"
	run "$STACK" rebase --undo --onto other
	fails_with 2 "--undo goes without --onto"
}

@test "rebase --undo: of a base that had moved, after conflicts" {
	three_patches
	moved_base 3
	before=$(git -C "$LINUX" rev-parse stack topic/one topic/two stack~3)
	run "$STACK" rebase
	fails_with 1 "stopped at: KVM: First change"
	sed -i '/^<<<<<<<\|^=======\|^>>>>>>>\|^moved 3/d' "$LINUX/virt/kvm/kvm_main.c"
	git -C "$LINUX" add -u
	GIT_EDITOR=: as_t rebase --continue
	"$STACK" rebase --undo
	[[ $(git -C "$LINUX" rev-parse stack topic/one topic/two base) == "$before" ]]
}

@test "rebase: a patch that the new base has is gone, and so is its topic" {
	three_patches
	git -C "$LINUX" checkout -q --detach base
	sed -i 's/^line 3$/line three/' "$LINUX/virt/kvm/kvm_main.c"
	commit_all "$LINUX" "the first one, merged"
	git -C "$LINUX" tag -f base >/dev/null
	git -C "$LINUX" checkout -q stack
	run "$STACK" rebase
	[[ $status == 0 && $output == *"2 of 3 commits are there"* ]]
	run "$STACK" export
	[[ $status == 0 && $output == *"topic one has no patches any more: git -C $LINUX branch -D topic/one"* ]]
	[[ $(grep -c '\.patch$' "$PROJECT/series") == 2 ]]
}

@test "apply leaves an am of the user's alone, and what they edit in it" {
	three_patches
	back_to_base
	sed -i 's/line 21$/line 2l/' "$PROJECT"/patches/0002-*.patch
	run "$STACK" apply
	fails_with 1 "does not apply"
	refute as_t am -q -3 "$PROJECT"/patches/0002-*.patch
	echo "half way through" >>"$LINUX/virt/kvm/kvm_main.c"
	run "$STACK" apply
	fails_with 3 "a git am is under way"
	grep -q "half way through" "$LINUX/virt/kvm/kvm_main.c"
	[[ -d $LINUX/.git/rebase-apply ]]
}

@test "apply: a patch of the first topic that does not apply needs no topic" {
	three_patches
	back_to_base
	sed -i 's/^ line 2$/ line two/' "$PROJECT"/patches/0001-*.patch
	run "$STACK" apply
	fails_with 1 "0001-KVM-First-change.patch does not apply"
	[[ $output != *"no topic"* && $output != *" needs: "* ]]
}

@test "apply leaves a cherry-pick of the user's alone, whose files are clean" {
	three_patches
	git -C "$LINUX" reset -q --hard topic/one
	# It comes to nothing, at which git stops.
	refute as_t cherry-pick topic/one 2>/dev/null
	[[ -f $LINUX/.git/CHERRY_PICK_HEAD ]]
	run "$STACK" apply
	fails_with 3 "a git cherry-pick is under way"
	[[ -f $LINUX/.git/CHERRY_PICK_HEAD ]]
}

@test "apply: series changes, commits do not: anew; commits of the user's: not" {
	three_patches
	sed -i 's/^+line twenty$/+line TWENTY/' "$PROJECT"/patches/0002-*.patch
	run "$STACK" apply
	[[ $status == 0 && $output == *"applying it anew"* ]]
	grep -q 'line TWENTY' "$LINUX/virt/kvm/kvm_main.c"
	echo >>"$LINUX/Makefile"
	commit_all "$LINUX" "my own work"
	sed -i 's/^+line TWENTY$/+line twenty/' "$PROJECT"/patches/0002-*.patch
	run "$STACK" apply
	fails_with 3 "not in series: export them"
}

@test "apply goes on only on branch stack, and moves no topic that holds work" {
	three_patches
	git -C "$LINUX" checkout -q topic/one
	run "$STACK" apply
	fails_with 3 'is on topic/one, not on "stack"'
	[[ $(git -C "$LINUX" log -1 --format=%s topic/one) == "KVM: First change" ]]

	git -C "$LINUX" checkout -q topic/two
	echo >>"$LINUX/Makefile"
	commit_all "$LINUX" "work on the topic"
	mine=$(git -C "$LINUX" rev-parse topic/two)
	git -C "$LINUX" checkout -q -B stack base
	run "$STACK" apply
	fails_with 3 "topic/two of $LINUX holds commits of its own"
	[[ $(git -C "$LINUX" rev-parse topic/two) == "$mine" ]]
}

@test "export: a test that was edited in build/linux goes to selftests/, and not the other way round" {
	three_patches
	echo 'int main(void) { return 42; }' >"$LINUX/tools/testing/selftests/kvm/new_test.c"
	git -C "$LINUX" add -A -f
	as_t commit -q --amend --no-edit
	git -C "$LINUX" branch -f topic/two
	"$STACK" export
	grep -q 'return 42' "$PROJECT/selftests/new_test.c"
	grep -q '^+int main(void) { return 42; }' "$PROJECT"/patches/0003-*.patch

	# Both.
	echo 'int main(void) { return 43; }' >"$LINUX/tools/testing/selftests/kvm/new_test.c"
	git -C "$LINUX" add -A -f
	as_t commit -q --amend --no-edit
	git -C "$LINUX" branch -f topic/two
	echo 'int main(void) { return 44; }' >"$PROJECT/selftests/new_test.c"
	cp -r "$PROJECT/patches" "$BATS_TEST_TMPDIR/"
	run "$STACK" export
	fails_with 1 "were both edited"
	grep -q 'return 44' "$PROJECT/selftests/new_test.c"
	diff -r "$PROJECT/patches" "$BATS_TEST_TMPDIR/patches"
}

@test "export: who has the commits by git's own means has what apply would have made" {
	three_patches
	# The same commits, of which nothing is recorded.
	rm "$LINUX/.git/stack-record"
	"$STACK" apply
	echo 'int main(void) { return 5; }' >"$PROJECT/selftests/new_test.c"
	run "$STACK" export
	[[ $status == 0 && $output == *"folding selftests/new_test.c"* ]] || { echo "$output"; false; }
	# An edit of a test is none that apply takes for agreed upon.
	rm "$LINUX/.git/stack-record"
	echo 'int main(void) { return 6; }' >"$PROJECT/selftests/new_test.c"
	"$STACK" apply
	run "$STACK" export
	grep -q 'return 6' "$PROJECT/selftests/new_test.c"
}

@test "export does not write over patches that build/linux never had" {
	three_patches
	sed -i 's/^+line twenty$/+line 20 of somebody else/' "$PROJECT"/patches/0002-*.patch
	run "$STACK" export
	fails_with 1 "patches/0002-KVM-Second-change.patch would be lost"
	grep -q 'somebody else' "$PROJECT"/patches/0002-*.patch
	"$STACK" export --force
	grep -q '^+line twenty$' "$PROJECT"/patches/0002-*.patch
}

@test "two at once: the second one waits, and says so" {
	three_patches
	exec 9>>"$KVM_STACK_BUILD/stack.lock"
	flock 9
	echo "apply, process 1" >"$KVM_STACK_BUILD/stack.lock"
	"$STACK" export >"$BATS_TEST_TMPDIR/second" 2>&1 9>&- &
	# It does wait, and not only say so.
	for _ in $(seq 100); do
		grep -q "waiting for another one to end" "$BATS_TEST_TMPDIR/second" && pgrep -x flock -P $! && break
		sleep 0.1
	done
	grep -q "waiting for another one to end: scripts/stack apply, process 1" "$BATS_TEST_TMPDIR/second"
	pgrep -x flock -P $!
	exec 9>&-
	wait $!
	grep -q "exported 3 patches" "$BATS_TEST_TMPDIR/second"
}

@test "drift: 3-way is what git am -3 does there; what takes the stack's objects says so" {
	three_patches
	tree=$BATS_TEST_TMPDIR/newer
	mini_kernel "$tree"
	# Context of the second patch differs: to be merged by its blobs.
	sed -i 's/^line 18$/line 18 changed/' "$tree/virt/kvm/kvm_main.c"
	git -C "$tree" init -q
	commit_all "$tree" newer
	run "$STACK" drift --tree "$tree"
	[[ $status == 0 && $output == *"3-way*     0002-"* && $output == *"fetch $LINUX stack"* ]]
	refute git -C "$tree" -c user.name=T -c user.email=t@localhost am -q -3 "$PROJECT"/patches/*.patch
	git -C "$tree" -c user.name=T -c user.email=t@localhost am --abort
	git -C "$tree" fetch -q "$LINUX" stack
	run "$STACK" drift --tree "$tree"
	[[ $status == 0 && $output == *"3-way      0002-"* && $output != *"3-way*"* ]]
	git -C "$tree" -c user.name=T -c user.email=t@localhost am -q -3 "$PROJECT"/patches/*.patch
}

@test "drift: what one merge took is there for the next patch, though the tree has not got it" {
	three_patches
	echo new >"$LINUX/virt/kvm/new.c"
	sed -i 's/^line 28$/line 28 changed/' "$LINUX/virt/kvm/kvm_main.c"
	commit_all "$LINUX" "KVM: Fourth change"
	sed -i 's/^line 38$/line 38 changed/' "$LINUX/virt/kvm/kvm_main.c"
	commit_all "$LINUX" "KVM: Fifth change"
	echo more >>"$LINUX/virt/kvm/new.c"
	commit_all "$LINUX" "KVM: Sixth change"
	git -C "$LINUX" branch -f topic/two
	"$STACK" export
	tree=$BATS_TEST_TMPDIR/newer
	mini_kernel "$tree"
	sed -i 's/^line 26$/line XX/; s/^line 38$/line YY/' "$tree/virt/kvm/kvm_main.c"
	git -C "$tree" init -q
	commit_all "$tree" newer
	run "$STACK" drift --tree "$tree"
	echo "$output"
	[[ $status == 1 && $output != *error:* && $output != *fatal:* ]]
	[[ $output == *"3-way*     0004-"*"conflicts  0005-"*$'\n'"           in virt/kvm/kvm_main.c"*"applies    0006-"* ]]
	grep -qE '^one +1 +0 +0 +0$' <<<"$output"
	grep -qE '^two +3 +1 +1 +0$' <<<"$output"
}

@test "docs: when the base moves" {
	three_patches
	ln -s "$KVM_STACK_BUILD" "$PROJECT/build"
	moved_base 5
	# There is no package to be had here.
	sed -i 's/^scripts\/stack base .*//' "$PROJECT/docs/rebase.md"
	run walk rebase
	[[ $status == 0 && $output == *"3 of 3 commits are there"*"exported 3 patches"* ]] || { echo "$output"; false; }
}

@test "docs: a patch conflicts" {
	three_patches
	ln -s "$KVM_STACK_BUILD" "$PROJECT/build"
	moved_base 3
	EDITOR="sed -i /^<<<<<<</d;/^=======/d;/^>>>>>>>/d;/^moved.3/d" \
		GIT_AUTHOR_NAME=T GIT_AUTHOR_EMAIL=t@localhost GIT_COMMITTER_NAME=T GIT_COMMITTER_EMAIL=t@localhost run walk conflict
	[[ $status == 0 && $output == *"stopped at: KVM: First change"*"exported 3 patches"* ]] || { echo "$output"; false; }
	grep -q '^-moved 3' "$PROJECT"/patches/0001-*.patch
}
