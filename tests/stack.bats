#!/usr/bin/env bats
# scripts/stack: verbs and bad inputs, on a kernel tree of a few files.

load common

setup() {
	small_stack
}

@test "--help names every verb; no verb and a wrong one are wrong usage" {
	run "$STACK" --help
	[[ $status == 0 ]]
	for verb in base apply export check drift build-each send; do
		[[ $output == *"$verb"* ]]
	done
	run "$STACK"
	fails_with 2 "which verb?"
	run "$STACK" frobnicate
	fails_with 2 "no verb 'frobnicate'"
	run "$STACK" apply --frobnicate
	fails_with 2 "unknown option '--frobnicate'"
}

@test "export cuts topics at topic/ branches and keeps the head of series" {
	three_patches
	[[ $(cat "$PROJECT/series") == "# head of the file

# topic: one — ready
0001-KVM-First-change.patch

# topic: two — draft
0002-KVM-Second-change.patch
0003-KVM-selftests-Third-change.patch" ]]
}

@test "export after apply gives the same bytes" {
	three_patches
	cp -r "$PROJECT/patches" "$PROJECT/series" "$BATS_TEST_TMPDIR/"
	back_to_base
	"$STACK" apply
	"$STACK" export
	diff -r "$PROJECT/patches" "$BATS_TEST_TMPDIR/patches"
	diff "$PROJECT/series" "$BATS_TEST_TMPDIR/series"
}

@test "export folds selftests/ into the commit that adds the file" {
	three_patches
	echo 'int main(void) { return 1; }' >"$PROJECT/selftests/new_test.c"
	run "$STACK" export
	[[ $status == 0 ]]
	grep -q '^+int main(void) { return 1; }' "$PROJECT"/patches/0003-*.patch
	[[ $(grep -c '\.patch$' "$PROJECT/series") == 3 ]]
	echo 'int x;' >"$PROJECT/selftests/other_test.c"
	run "$STACK" export
	fails_with 1 "selftests/other_test.c is in no commit"
}

@test "apply and export work for those who never told git who they are" {
	three_patches
	cp -r "$PROJECT/patches" "$BATS_TEST_TMPDIR/"
	export HOME=$BATS_TEST_TMPDIR/nobody GIT_CONFIG_NOSYSTEM=1
	mkdir "$HOME"
	back_to_base
	"$STACK" apply
	echo 'int main(void) { return 1; }' >"$PROJECT/selftests/new_test.c"
	"$STACK" export
	grep -q '^+int main(void) { return 1; }' "$PROJECT"/patches/0003-*.patch
	diff "$PROJECT"/patches/0001-*.patch "$BATS_TEST_TMPDIR"/patches/0001-*.patch
}

@test "export refuses a dirty tree, no commits, and a stray topic branch" {
	run "$STACK" export
	fails_with 1 "has no commits since base"
	three_patches
	echo >>"$LINUX/virt/kvm/kvm_main.c"
	run "$STACK" export
	fails_with 3 "has uncommitted changes"
	git -C "$LINUX" checkout -q .
	git -C "$LINUX" branch topic/stray "$(git -C "$LINUX" -c user.name=T -c user.email=t@localhost commit-tree -m x "base^{tree}")"
	run "$STACK" export
	fails_with 1 "topic/stray is not in the history of HEAD"
}

@test "apply --upto and --topic apply just that" {
	three_patches
	back_to_base
	"$STACK" apply --upto 2
	[[ $(git -C "$LINUX" rev-list --count base..HEAD) == 2 ]]
	back_to_base
	"$STACK" apply --topic one
	[[ $(git -C "$LINUX" log -1 --format=%s) == "KVM: First change" ]]
	back_to_base
	"$STACK" apply --topic 'o*'
	[[ $(git -C "$LINUX" log -1 --format=%s) == "KVM: First change" ]]
	run "$STACK" apply --topic three
	fails_with 2 "no topic 'three' in series; there are: one two"
	run "$STACK" apply --upto 4
	fails_with 2 "--upto takes 1 to 3"
}

@test "apply again is a no-op; apply goes on where an earlier one stopped" {
	three_patches
	run "$STACK" apply
	[[ $status == 0 && $output == *"up to date"* ]]
	back_to_base
	"$STACK" apply --upto 1
	run "$STACK" apply
	[[ $status == 0 && $output == *"continuing: 1 of 3"* ]]
	[[ $(git -C "$LINUX" rev-list --count base..HEAD) == 3 ]]
}

@test "apply goes on after it was killed inside git am" {
	three_patches
	back_to_base
	"$STACK" apply --upto 1
	# What a killed git am leaves: its state directory and a half-written file.
	git -C "$LINUX" apply --index "$PROJECT"/patches/0002-*.patch
	mkdir "$LINUX/.git/rebase-apply"
	touch "$LINUX/.git/rebase-apply/applying"
	cp "$PROJECT"/patches/0002-*.patch "$LINUX/.git/rebase-apply/0001"
	# One of the user's is theirs, and so is what they edit.
	run "$STACK" apply
	fails_with 3 "a git am is under way"
	# One of apply's own carries its mark. While a git runs there, its lock is not removed.
	echo "'--exclude=scripts/stack-apply'" >"$LINUX/.git/rebase-apply/apply-opt"
	touch "$LINUX/.git/index.lock"
	cp "$(command -v sleep)" "$BATS_TEST_TMPDIR/git-am"
	(cd "$LINUX" && exec "$BATS_TEST_TMPDIR/git-am" 1000) 3>&- &
	until grep -qs git-am "/proc/$!/comm"; do sleep 0.02; done
	run "$STACK" apply
	kill $!
	fails_with 3 "another scripts/stack apply runs"
	[[ -e $LINUX/.git/index.lock ]]
	wait $! || true
	run "$STACK" apply
	[[ $status == 0 && $output == *"interrupted"* ]]
	[[ $(git -C "$LINUX" rev-list --count base..HEAD) == 3 ]]
}

@test "apply on commits that are not in series loses nothing" {
	three_patches
	back_to_base
	echo >>"$LINUX/Makefile"
	commit_all "$LINUX" "my own work"
	head=$(git -C "$LINUX" rev-parse HEAD)
	run "$STACK" apply
	fails_with 3 "not in series: export them"
	[[ $(git -C "$LINUX" rev-parse HEAD) == "$head" ]]
}

@test "apply stops at a patch that fails, says which hunk, keeps the ones before" {
	three_patches
	back_to_base
	sed -i 's/line 21$/line 2l/' "$PROJECT"/patches/0002-*.patch
	run "$STACK" apply
	fails_with 1 "0002-KVM-Second-change.patch does not apply"
	[[ $output == *"virt/kvm/kvm_main.c:17"* && $output == *"git -C $LINUX am -3"* ]]
	[[ $(git -C "$LINUX" rev-list --count base..HEAD) == 1 ]]
	[[ ! -d $LINUX/.git/rebase-apply ]]
}

@test "apply --tree: the user's own tree, a wrong one, a dirty one, a patched one, one mid-am" {
	three_patches
	tree=$BATS_TEST_TMPDIR/linux
	mini_kernel "$tree"
	run "$STACK" apply --tree "$tree"
	fails_with 2 "is not a git work tree"
	git -C "$tree" init -q
	commit_all "$tree" mine
	run "$STACK" apply --tree "$BATS_TEST_TMPDIR"
	fails_with 2 "is not a kernel tree"
	echo >>"$tree/Makefile"
	run "$STACK" apply --tree "$tree"
	fails_with 3 "has uncommitted changes (Makefile"
	git -C "$tree" checkout -q .
	"$STACK" apply --tree "$tree"
	[[ $(git -C "$tree" log --format=%s -1) == "KVM: selftests: Third change" ]]
	run "$STACK" apply --tree "$tree"
	fails_with 3 "already patched"
	mkdir "$tree/.git/rebase-apply"
	run "$STACK" apply --tree "$tree"
	fails_with 3 "a git am is under way"
}

@test "git am patches/*.patch and quilt push -a give the same tree as apply" {
	three_patches
	want=$(git -C "$LINUX" rev-parse 'HEAD^{tree}')
	tree=$BATS_TEST_TMPDIR/am
	mini_kernel "$tree"
	git -C "$tree" init -q
	commit_all "$tree" mine
	git -C "$tree" -c user.name=T -c user.email=t@localhost am -q "$PROJECT"/patches/*.patch
	[[ $(git -C "$tree" rev-parse 'HEAD^{tree}') == "$want" ]]

	tree=$BATS_TEST_TMPDIR/quilt
	mini_kernel "$tree"
	(cd "$tree" && QUILT_SERIES=$PROJECT/series QUILT_PATCHES=$PROJECT/patches quilt --quiltrc - push -a --fuzz=0)
	rm -rf "$tree/.pc"
	git -C "$tree" init -q
	commit_all "$tree" mine
	[[ $(git -C "$tree" rev-parse 'HEAD^{tree}') == "$want" ]]
}

@test "the real stack: git am and quilt on the files it touches" {
	[[ -d $REAL_BUILD/linux/.git ]] || skip "no base tree"
	tree=$BATS_TEST_TMPDIR/real
	mkdir "$tree"
	git apply --numstat "$REAL"/patches/*.patch | cut -f3 | sort -u >"$tree.files"
	xargs -d '\n' git -C "$REAL_BUILD/linux" ls-tree -r --name-only base -- <"$tree.files" |
		xargs -d '\n' git -C "$REAL_BUILD/linux" archive base -- | tar -x -C "$tree"
	[[ $(find "$tree" -type f | wc -l) -gt 20 ]]
	cp -r "$tree" "$tree.quilt"
	git -C "$tree" init -q
	commit_all "$tree" base
	git -C "$tree" -c user.name=T -c user.email=t@localhost am -q "$REAL"/patches/*.patch
	(cd "$tree.quilt" && QUILT_SERIES=$REAL/series QUILT_PATCHES=$REAL/patches quilt --quiltrc - push -q -a --fuzz=0)
	diff -r -x .git -x .pc "$tree" "$tree.quilt"
}

@test "check finds a missing, an orphan and a duplicate patch, and a Signed-off-by" {
	three_patches
	mkdir -p "$LINUX/scripts"
	printf '#!/usr/bin/perl\nexit 0;\n' >"$LINUX/scripts/checkpatch.pl"
	cp "$PROJECT"/patches/0001-*.patch "$PROJECT/patches/0009-orphan.patch"
	echo 0002-KVM-Second-change.patch >>"$PROJECT/series"
	rm "$PROJECT"/patches/0003-*.patch
	printf '%s\n' "Signed-off-by: Nobody <n@localhost>" | sed -i '/^---$/{
		r /dev/stdin
		N
	}' "$PROJECT"/patches/0001-*.patch
	sed -i '0,/^---$/s//Signed-off-by: N <n@localhost>\n---/' "$PROJECT"/patches/0001-*.patch
	run "$STACK" check
	[[ $status == 1 ]]
	[[ $output == *"0003-KVM-selftests-Third-change.patch is missing"* ]]
	[[ $output == *"patches/0009-orphan.patch is not in series"* ]]
	[[ $output == *"0002-KVM-Second-change.patch stands twice"* ]]
	[[ $output == *"carries a Signed-off-by"* ]]
	[[ $output == *"no 'Assisted-by: LLM' trailer"* ]]
}

@test "check: changelog rules" {
	sed -i 's/^line 3$/do_thing(3);/' "$LINUX/virt/kvm/kvm_main.c"
	commit_all "$LINUX" "kvm: did something.

This patch calls do_thing as we need it.

Assisted-by: LLM"
	git -C "$LINUX" branch topic/one
	"$STACK" export
	printf '#!/usr/bin/perl\nexit 0;\n' >"$LINUX/scripts/checkpatch.pl"
	run "$STACK" check
	[[ $status == 1 ]]
	[[ $output == *"is not 'KVM: TOPIC: Capitalised ...'"* ]]
	[[ $output == *"ends with a full stop"* ]]
	[[ $output == *"uses a pronoun: we"* ]]
	[[ $output == *"not in the imperative"* ]]
	[[ $output == *"names do_thing without ()"* ]]
}

@test "check finds a selftest patch that names, or includes, what a later one adds" {
	three_patches
	printf '#!/usr/bin/perl\nexit 0;\n' >"$LINUX/scripts/checkpatch.pl"
	run "$STACK" check
	[[ $output == *"ok - each selftest patch has what its selftests need"* ]]
	git -C "$LINUX" checkout -q .
	echo "TEST_GEN_PROGS_x86 += x86/later_test" >>"$LINUX/tools/testing/selftests/kvm/Makefile.kvm"
	echo '#include "ours.h"' >"$LINUX/tools/testing/selftests/kvm/new_test.c"
	commit_all "$LINUX" "KVM: selftests: Name what isn't there"
	git -C "$LINUX" branch -f topic/two
	"$STACK" export
	mkdir -p "$PROJECT/selftests/include"
	: >"$PROJECT/selftests/include/ours.h"
	printf '#!/usr/bin/perl\nexit 0;\n' >"$LINUX/scripts/checkpatch.pl"
	run "$STACK" check
	[[ $status == 1 ]]
	[[ $output == *"names x86/later_test.c, which a later patch adds"* ]]
	[[ $output == *"ours.h is included, which a later patch adds"* ]]
}

@test "check finds selftests out of sync, and a stack that does not apply" {
	three_patches
	printf '#!/usr/bin/perl\nexit 0;\n' >"$LINUX/scripts/checkpatch.pl"
	echo 'int y;' >>"$PROJECT/selftests/new_test.c"
	run "$STACK" check
	[[ $status == 1 && $output == *"selftests/new_test.c differs"* ]]
	sed -i 's/line 21$/line 2l/' "$PROJECT"/patches/0002-*.patch
	run "$STACK" check
	[[ $status == 1 && $output == *"0002-KVM-Second-change.patch does not apply"* ]]
}

@test "series: lines that cannot be read are named" {
	three_patches
	echo ' 0002-KVM-Second-change.patch' >>"$PROJECT/series"
	run "$STACK" apply
	fails_with 1 "is no patch name"
	printf '# topic: x\n' >"$PROJECT/series"
	run "$STACK" apply
	fails_with 1 "want '# topic: NAME"
	echo 0001-a.patch >"$PROJECT/series"
	run "$STACK" apply
	fails_with 1 "stands before the first '# topic:' line"
	rm "$PROJECT/series"
	run "$STACK" apply
	fails_with 1 "no file 'series'"
}

@test "drift: applies, 3-way, conflicts, upstream; the tree is only read" {
	three_patches
	tree=$BATS_TEST_TMPDIR/newer
	mini_kernel "$tree"
	sed -i 's/^line 3$/line three/; s/^line 21$/line 21 changed/' "$tree/virt/kvm/kvm_main.c"
	cp -r "$tree" "$tree.before"
	run "$STACK" drift --tree "$tree"
	[[ $output == *"upstream   0001-"* && $output == *"0003-"* ]]
	[[ $output == *"applies    0003-"* ]]
	diff -r "$tree" "$tree.before"
	sed -i 's/^line 20$/line XX/' "$tree/virt/kvm/kvm_main.c"
	run "$STACK" drift --tree "$tree"
	[[ $status == 1 && $output == *"conflicts  0002-"* ]]
	run "$STACK" drift --tree "$BATS_TEST_TMPDIR"
	fails_with 2 "is not a kernel tree"
	run "$STACK" drift
	fails_with 2 "wants --tree"
}

@test "base: no network, a package from the cache, and one that moved on" {
	# A base package of a few files, in the cache; the mirror is unreachable.
	make_package() {
		local dir=$BATS_TEST_TMPDIR/pkg-$1

		mini_kernel "$dir/linux-source-7.3"
		echo "SUBLEVEL = $1" >>"$dir/linux-source-7.3/Makefile"
		mkdir -p "$dir/root/DEBIAN" "$dir/root/usr/src" "$KVM_STACK_CACHE/deb"
		tar -C "$dir" -cJf "$dir/root/usr/src/linux-source-7.3.tar.xz" linux-source-7.3
		printf 'Package: linux-source-7.3\nVersion: 7.3.%s-1\nArchitecture: all\nMaintainer: T <t@localhost>\nDescription: x\n' \
			"$1" >"$dir/root/DEBIAN/control"
		dpkg-deb -b "$dir/root" "$KVM_STACK_CACHE/deb/linux-source-7.3_7.3.$1-1_all.deb" >/dev/null
	}
	three_patches
	# As apt says it, without its waiting for a network.
	sed -i 's|^mirror=.*|mirror=file:///no/such/mirror|' "$PROJECT/BASE"
	rm -rf "$LINUX" "$KVM_STACK_BUILD/base-version"
	run "$STACK" base
	fails_with 3 "no network and no linux-source-7.3 in"
	run "$STACK" apply
	fails_with 3 "no base tree yet: run scripts/stack base"
	make_package 4
	"$STACK" base
	"$STACK" apply
	[[ $(cat "$KVM_STACK_BUILD/base-version") == 7.3.4-1 ]]
	first=$(git -C "$LINUX" rev-parse base)
	run "$STACK" base
	[[ $status == 0 && $output == *"up to date: 7.3.4-1"* ]]

	make_package 5
	run "$STACK" base
	[[ $status == 0 && $output == *"base moved to 7.3.5-1"* ]]
	"$STACK" apply
	[[ $(git -C "$LINUX" rev-parse base) != "$first" ]]
	[[ $(git -C "$LINUX" rev-list --count base..HEAD) == 3 ]]
	git -C "$LINUX" show HEAD:Makefile | grep -q 'SUBLEVEL = 5'
	git -C "$LINUX" merge-base --is-ancestor "$first" HEAD && false
	[[ $(git -C "$LINUX" rev-parse HEAD~3) == "$(git -C "$LINUX" rev-parse base)" ]]
}

@test "base --tree records the base of a tree of the user's, for export --tree" {
	three_patches
	tree=$BATS_TEST_TMPDIR/linux
	mini_kernel "$tree"
	git -C "$tree" init -q
	commit_all "$tree" mine
	run "$STACK" export --tree "$tree"
	fails_with 2 "has no recorded base"
	"$STACK" base --tree "$tree"
	"$STACK" apply --tree "$tree"
	git -C "$tree" branch topic/one "HEAD~2"
	git -C "$tree" branch topic/two HEAD
	cp -r "$PROJECT/patches" "$BATS_TEST_TMPDIR/"
	"$STACK" export --tree "$tree"
	diff -r "$PROJECT/patches" "$BATS_TEST_TMPDIR/patches"
}

@test "a full disk and a package that cannot be had are the environment's fault" {
	[[ $EUID == 0 ]] || skip "mounting takes root"
	mkdir "$BATS_TEST_TMPDIR/full"
	mount -t tmpfs -o size=1m none "$BATS_TEST_TMPDIR/full" || skip "cannot mount a tmpfs"
	KVM_STACK_BUILD=$BATS_TEST_TMPDIR/full run "$STACK" base
	umount "$BATS_TEST_TMPDIR/full"
	fails_with 3 "MiB are free"

	no_network "E: Unable to locate package no-such-package-anywhere"
	echo "no-such-package-anywhere no-such-program-anywhere" >"$PROJECT/scripts/packages"
	run "$STACK" build-each
	fails_with 3 "cannot install no-such-package-anywhere"
}

@test "a folder of the user's is neither build/ nor the cache, and stays as it is" {
	three_patches
	mkdir -p "$BATS_TEST_TMPDIR"/theirs/{src,run/mine,kernel/mine,obj}
	touch -d '60 days ago' "$BATS_TEST_TMPDIR"/theirs/kernel/mine
	before=$(find "$BATS_TEST_TMPDIR/theirs" | sort)
	for program in "scripts/stack status" "ci/prune --build" "ci/run --dry-run --lane svm-tdp" "ci/kernel --tree base --config lane"; do
		KVM_STACK_BUILD=$BATS_TEST_TMPDIR/theirs run "$PROJECT"/$program
		fails_with 2 "KVM_STACK_BUILD=$BATS_TEST_TMPDIR/theirs is a folder that holds other things"
		KVM_STACK_CACHE=$BATS_TEST_TMPDIR/theirs run "$PROJECT"/$program
		fails_with 2 "KVM_STACK_CACHE=$BATS_TEST_TMPDIR/theirs is a folder that holds other things"
	done
	[[ $(find "$BATS_TEST_TMPDIR/theirs" | sort) == "$before" ]]
	# A new one, an empty one, and one of before there was a mark.
	rm "$KVM_STACK_BUILD/.kvm-mmu-stack"
	mkdir "$BATS_TEST_TMPDIR/empty"
	for _ in once again; do
		for cache in empty new; do
			KVM_STACK_CACHE=$BATS_TEST_TMPDIR/$cache run "$STACK" status
			[[ $status == 0 && $output == series ]] || { echo "$output"; false; }
		done
		mkdir -p "$BATS_TEST_TMPDIR"/{empty,new}/kernel
	done
}

@test "build-each counts what doesn't build, for x86 and for others" {
	three_patches
	local first
	first=$(git -C "$LINUX" rev-parse HEAD~2)
	cat >"$PROJECT/ci/kernel" <<-E
		#!/bin/sh
		[ "\$*" != "--tree $first --config \$FAILS" ]
	E
	run "$STACK" build-each
	[[ $status == 0 && ${lines[-1]} == "6 passed, 0 failed, 0 skipped" ]]
	FAILS=arm64 run "$STACK" build-each
	[[ $status == 1 && $output == *"not ok - arm64 does not build: 0001-"* && ${lines[-1]} == "5 passed, 1 failed, 0 skipped" ]]
	FAILS=werror run "$STACK" build-each
	[[ $status == 1 && $output == *"not ok - x86 does not build: 0001-"* && ${lines[-1]} == "5 passed, 1 failed, 0 skipped" ]]
	FAILS=riscv run "$STACK" build-each --topic two
	[[ $status == 0 && ${lines[-1]} == "4 passed, 0 failed, 0 skipped" ]]
}

@test "build-each stops where the environment is at fault, and blames no patch" {
	three_patches
	printf '#!/bin/sh\necho "kernel: disk full" >&2\nexit 3\n' >"$PROJECT/ci/kernel"
	run "$STACK" build-each
	[[ $output != *"not ok"* ]]
	fails_with 3 "is not at fault"
}

@test "build-each: if it is ended, so is what it began" {
	three_patches
	# Keeps a lock for as long as anything of it runs.
	cat >"$PROJECT/ci/kernel" <<-E
		#!/bin/sh
		exec 8>>"$BATS_TEST_TMPDIR/begun"
		flock -s 8
		echo begun >&8
		exec sleep 30
	E
	"$STACK" build-each 3>&- &
	for ((i = 0; i < 600; i++)); do
		[[ $(cat "$BATS_TEST_TMPDIR/begun" 2>/dev/null | wc -l) != 2 ]] || break
		sleep 0.1
	done
	SECONDS=0
	kill $!
	wait $! || true
	# Nor does it wait for that to end by itself.
	((SECONDS < 20))
	[[ $(wc -l <"$BATS_TEST_TMPDIR/begun") == 2 ]]
	flock -w 10 "$BATS_TEST_TMPDIR/begun" true
}

@test "send refuses what nobody has signed off, unless it is a dry run" {
	three_patches
	fake_maintainers
	run "$STACK" send two -o "$BATS_TEST_TMPDIR/out"
	fails_with 1 "no Signed-off-by of its author"
	[[ ! -e $BATS_TEST_TMPDIR/out ]]
	git -C "$LINUX" -c user.name=T -c user.email=t@localhost rebase -q --signoff base
	git -C "$LINUX" branch -f topic/one HEAD~2
	git -C "$LINUX" branch -f topic/two HEAD
	"$STACK" export
	run "$STACK" send two -o "$BATS_TEST_TMPDIR/out"
	[[ $status == 0 ]]
	sed -i 's/^Signed-off-by: .*/Signed-off-by: Somebody Else <else@localhost>/' "$PROJECT"/patches/*.patch
	run "$STACK" send two -o "$BATS_TEST_TMPDIR/other"
	fails_with 1 "no Signed-off-by of its author"
}

@test "send's mails go through b4 am and apply to the base byte for byte" {
	three_patches
	fake_maintainers
	out=$BATS_TEST_TMPDIR/out
	run "$STACK" send two -o "$out" --dry-run
	[[ $status == 0 && $output == *"nobody has certified them"* ]]
	grep -qx 'Subject: \[PATCH 0/2\] KVM: Two' "$out/0000-cover-letter.patch"
	grep -qx 'Why two.' "$out/0000-cover-letter.patch"
	grep -qx '| a | b |' "$out/0000-cover-letter.patch"
	grep -qx 'To: M <maintainer@localhost>' "$out/0001"*
	grep -qx 'Cc: kvm@localhost' "$out/0002"*
	grep -qx "base-commit: $(git -C "$LINUX" rev-parse base)" "$out/0000-cover-letter.patch"
	[[ $(grep -c '^prerequisite-patch-id: ' "$out/0000-cover-letter.patch") == 1 ]]

	mkdir "$BATS_TEST_TMPDIR/am"
	id=$(sed -n 's/^Message-I[dD]: <\(.*\)>$/\1/p' "$out/0000-cover-letter.patch")
	# b4 wants to know who uses it.
	git -C "$LINUX" config user.name T
	git -C "$LINUX" config user.email t@localhost
	(cd "$LINUX" && b4 --offline-mode -n am -m "$out/two.mbox" -o "$BATS_TEST_TMPDIR/am" "$id")
	tree=$(git -C "$LINUX" rev-parse 'stack^{tree}')
	git -C "$LINUX" checkout -q topic/one
	git -C "$LINUX" am -q "$BATS_TEST_TMPDIR"/am/*.mbx
	[[ $(git -C "$LINUX" rev-parse 'HEAD^{tree}') == "$tree" ]]
}

@test "send says what it cannot do" {
	three_patches
	fake_maintainers
	run "$STACK" send two
	fails_with 2 "-o DIR"
	run "$STACK" send three -o "$BATS_TEST_TMPDIR/out" --dry-run
	fails_with 2 "no topic 'three'"
	run "$STACK" send 't*' -o "$BATS_TEST_TMPDIR/out" --dry-run
	fails_with 2 "send takes one topic, not a pattern of 't*'"
	mkdir "$BATS_TEST_TMPDIR/full" && touch "$BATS_TEST_TMPDIR/full/file"
	run "$STACK" send two -o "$BATS_TEST_TMPDIR/full" --dry-run
	fails_with 2 "is not empty"
	git -C "$LINUX" branch send/two HEAD~1
	run "$STACK" send two -o "$BATS_TEST_TMPDIR/out" --dry-run
	fails_with 3 "branch send/two of $LINUX is in the way"
	git -C "$LINUX" rev-parse -q --verify send/two
	git -C "$LINUX" branch -D send/two
	# Mails to nobody are none.
	mv "$LINUX/scripts/get_maintainer.pl" "$BATS_TEST_TMPDIR/"
	run "$STACK" send two -o "$BATS_TEST_TMPDIR/out" --dry-run
	fails_with 3 "get_maintainer.pl failed"
	[[ ! -e $BATS_TEST_TMPDIR/out ]]
	mv "$BATS_TEST_TMPDIR/get_maintainer.pl" "$LINUX/scripts/"
	sed -i '/^## two/,$d' "$PROJECT/COVER-LETTER.md"
	run "$STACK" send two -o "$BATS_TEST_TMPDIR/out" --dry-run
	fails_with 1 "no section '## two'"
	sed -i 's/^line 5$/line five/' "$LINUX/virt/kvm/kvm_main.c"
	commit_all "$LINUX" "KVM: Not exported"
	run "$STACK" send two -o "$BATS_TEST_TMPDIR/out" --dry-run
	fails_with 3 "apply or export first"
}

@test "README: a patch" {
	three_patches
	ln -s "$KVM_STACK_BUILD" "$PROJECT/build"
	echo 'KVM: Fourth change' >"$BATS_TEST_TMPDIR/message"
	GIT_EDITOR="cp $BATS_TEST_TMPDIR/message" EDITOR='sed -i s/^line.30$/line.thirty/' \
		GIT_AUTHOR_NAME=T GIT_AUTHOR_EMAIL=t@localhost GIT_COMMITTER_NAME=T GIT_COMMITTER_EMAIL=t@localhost run walk patch
	[[ $status == 0 ]] || { echo "$output"; false; }
	[[ $(tail -n 2 "$PROJECT/series") == *"# topic: my-topic"*$'\n'"0004-KVM-Fourth-change.patch" ]] || { cat "$PROJECT/series"; false; }
}

@test "README: to the mailing list" {
	three_patches
	fake_maintainers
	ln -s "$KVM_STACK_BUILD" "$PROJECT/build"
	sed -i 's/send dirty-log-generic/send two/' "$PROJECT/README.md"
	export HOME=$BATS_TEST_TMPDIR/theirs
	mkdir "$HOME"
	git clone -q "$LINUX" "$HOME/linux"
	git -C "$HOME/linux" checkout -q --detach "$(git -C "$LINUX" rev-parse base)"
	seq 41 45 | sed 's/^/line /' >>"$HOME/linux/virt/kvm/kvm_main.c"
	cp -r "$LINUX/scripts" "$HOME/linux/"
	commit_all "$HOME/linux" "KVM: Newer than the base"
	newer=$(git -C "$HOME/linux" rev-parse HEAD)

	GIT_AUTHOR_NAME=T GIT_AUTHOR_EMAIL=t@localhost GIT_COMMITTER_NAME=T GIT_COMMITTER_EMAIL=t@localhost run walk mail
	[[ $status == 0 ]] || { echo "$output"; false; }
	grep -qx "base-commit: $newer" "$HOME/mails/0000-cover-letter.patch"
	grep -qx 'From: T <t@localhost>' "$HOME/mails/0001"*
	grep -qx 'Signed-off-by: T <t@localhost>' "$HOME/mails/0002"*
	[[ -s $HOME/mails/two.mbox ]]
}

@test "b4 prep, with .b4-config, copies the lists and leaves the cover letter alone" {
	three_patches
	fake_maintainers
	cp "$REAL/.b4-config" "$PROJECT/"
	git -C "$LINUX" branch upstream base
	git -C "$LINUX" config include.path "$PROJECT/.b4-config"
	git -C "$LINUX" config branch.stack.description $'KVM: A title\n\nWhy.'
	git -C "$LINUX" config user.name T
	git -C "$LINUX" config user.email t@localhost
	commit_all "$LINUX" "KVM: Maintainers"
	cd "$LINUX"
	run b4 --offline-mode -n prep --enroll upstream
	[[ $status == 0 ]] || { echo "$output"; false; }
	run b4 --offline-mode -n prep --auto-to-cc
	[[ $output == *"To: M <maintainer@localhost>"* && $output == *"Cc: kvm@vger.kernel.org"* ]] || { echo "$output"; false; }
	[[ $(git config branch.stack.description) == "KVM: A title"* ]]
}

@test "send -v 2: change log and link are wanted, and a range-diff comes with --previous" {
	three_patches
	fake_maintainers
	git -C "$LINUX" branch v1
	run "$STACK" send two -o "$BATS_TEST_TMPDIR/out" --dry-run -v 2
	fails_with 1 "version 2 wants a line 'Changes in v2:'"
	run "$STACK" send two -o "$BATS_TEST_TMPDIR/out" --dry-run -v two
	fails_with 2 "not 'two'"
	run "$STACK" send two -o "$BATS_TEST_TMPDIR/out" --dry-run --previous v1
	fails_with 2 "goes with -v 2"
	printf '\nChanges in v2:\n- None.\n- Link to v1: https://lore.kernel.org/r/1@localhost\n' >>"$PROJECT/COVER-LETTER.md"
	sed -i 's/^line 22$/line twenty-two/' "$LINUX/virt/kvm/kvm_main.c"
	git -C "$LINUX" add -A -f
	GIT_COMMITTER_NAME=T GIT_COMMITTER_EMAIL=t@localhost git -C "$LINUX" commit -q --amend --no-edit
	git -C "$LINUX" branch -f topic/two
	"$STACK" export
	run "$STACK" send two -o "$BATS_TEST_TMPDIR/out" --dry-run -v 2 --previous nothing
	fails_with 2 "no commit 'nothing'"
	"$STACK" send two -o "$BATS_TEST_TMPDIR/out" --dry-run -v 2 --previous topic/one..v1
	grep -qx 'Subject: \[PATCH v2 0/2\] KVM: Two' "$BATS_TEST_TMPDIR/out/v2-0000-cover-letter.patch"
	grep -qx 'Changes in v2:' "$BATS_TEST_TMPDIR/out/v2-0000-cover-letter.patch"
	grep -q '^Range-diff against v1:' "$BATS_TEST_TMPDIR/out/v2-0000-cover-letter.patch"
}

@test "send: a topic without those it needs, and one that says which" {
	three_patches
	# The second topic changes what the first one has changed.
	sed -i 's/^line three$/line 3, again/' "$LINUX/virt/kvm/kvm_main.c"
	commit_all "$LINUX" "KVM: Fourth change"
	git -C "$LINUX" branch -f topic/two
	"$STACK" export
	fake_maintainers
	tree=$BATS_TEST_TMPDIR/linux
	mini_kernel "$tree"
	git -C "$tree" init -q
	commit_all "$tree" mine
	cp -r "$LINUX/scripts" "$tree/"
	commit_all "$tree" scripts
	"$STACK" base --tree "$tree"
	run "$STACK" apply --tree "$tree" --topic two
	[[ $status == 1 && $output == *"topic two needs: one"* ]]
	git -C "$tree" reset -q --hard stack-base
	"$STACK" apply --tree "$tree" --topic one
	run "$STACK" send two --tree "$tree" -o "$BATS_TEST_TMPDIR/out" --dry-run
	fails_with 3 "lacks 0002-KVM-Second-change.patch"
	"$STACK" send one --tree "$tree" -o "$BATS_TEST_TMPDIR/one" --dry-run
	refute grep -q '^Applies after' "$BATS_TEST_TMPDIR/one/0000-cover-letter.patch"
	git -C "$tree" reset -q --hard stack-base
	"$STACK" apply --tree "$tree" --topic one,two
	# A letter longer than what a pipe holds, whose subject has a comma.
	sed -i "s/^KVM: One\$/KVM: One, and more/" "$PROJECT/COVER-LETTER.md"
	seq -f '| line %g of a letter that is longer than a pipe |' 4000 |
		sed -i '/^KVM: One, and more$/r /dev/stdin' "$PROJECT/COVER-LETTER.md"
	"$STACK" send two --tree "$tree" -o "$BATS_TEST_TMPDIR/out" --dry-run
	grep -qx 'Applies after: "KVM: One, and more"' "$BATS_TEST_TMPDIR/out/0000-cover-letter.patch"
	[[ $(grep -c '^prerequisite-patch-id: ' "$BATS_TEST_TMPDIR/out/0000-cover-letter.patch") == 1 ]]
}

@test "send: an author whose name takes two encoded words, and a line that begins with From" {
	three_patches
	fake_maintainers
	long="Žofie Ðorđevićová-Høegh the Elder"
	git -C "$LINUX" -c user.name=T -c user.email=t@localhost commit -q --amend --no-edit --author="$long <z@localhost>"
	git -C "$LINUX" branch -f topic/two
	"$STACK" export
	"$STACK" send two -o "$BATS_TEST_TMPDIR/out" --dry-run
	mkdir "$BATS_TEST_TMPDIR/am"
	id=$(sed -n 's/^Message-I[dD]: <\(.*\)>$/\1/p' "$BATS_TEST_TMPDIR/out/0000-cover-letter.patch")
	git -C "$LINUX" config user.name T
	git -C "$LINUX" config user.email t@localhost
	(cd "$LINUX" && b4 --offline-mode -n am -m "$BATS_TEST_TMPDIR/out/two.mbox" -o "$BATS_TEST_TMPDIR/am" "$id")
	git -C "$LINUX" checkout -q --detach topic/one
	git -C "$LINUX" am -q "$BATS_TEST_TMPDIR"/am/*.mbx
	[[ $(git -C "$LINUX" log -1 --format=%an) == "$long" ]]

	git -C "$LINUX" checkout -q stack
	git -C "$LINUX" commit -q --amend -m $'KVM: selftests: Third change\n\nFrom now on, things are different.\n'
	git -C "$LINUX" branch -f topic/two
	"$STACK" export
	run "$STACK" send two -o "$BATS_TEST_TMPDIR/from" --dry-run
	fails_with 1 "begins with 'From '"
	[[ -z $(ls "$BATS_TEST_TMPDIR/from") ]]
	printf '#!/usr/bin/perl\nexit 0;\n' >"$LINUX/scripts/checkpatch.pl"
	run "$STACK" check
	[[ $status == 1 && $output == *"begins with 'From '"* ]]
}

@test "check: I/O, microseconds and guest_memfd are fine" {
	sed -i 's/^line 3$/line three/' "$LINUX/virt/kvm/kvm_main.c"
	commit_all "$LINUX" "KVM: guest_memfd: Speed up I/O

Do I/O, i.e. in 10 us, with re-used pages of DAMON.

Assisted-by: LLM"
	git -C "$LINUX" branch topic/one
	"$STACK" export
	printf '#!/usr/bin/perl\nexit 0;\n' >"$LINUX/scripts/checkpatch.pl"
	run "$STACK" check
	# There is no function in it to be found.
	[[ $output != *"internal error"* ]]
	[[ $output == *"ok - changelog 0001-"* && $output == *"ok - codespell 0001-"* ]] || { echo "$output"; false; }
	# A checker that doesn't run has found nothing, and is no pass.
	mkdir "$BATS_TEST_TMPDIR/bin"
	printf '#!/bin/sh\necho "Traceback (most recent call last):" >&2\nexit 1\n' >"$BATS_TEST_TMPDIR/bin/codespell"
	chmod +x "$BATS_TEST_TMPDIR/bin/codespell"
	PATH=$BATS_TEST_TMPDIR/bin:$PATH run "$STACK" check
	[[ $status == 1 && $output == *"not ok - codespell runs: Traceback"* ]] || { echo "$output"; false; }
}
