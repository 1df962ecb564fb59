#!/usr/bin/env bats
# ci/kernel, ci/prune and ci/lib/tree.sh: what is built, of what, and what is kept; on a kernel tree of a
# few files, whose Makefile compiles nothing.

load common

setup() {
	copy_project
	export KVM_STACK_BUILD=$BATS_TEST_TMPDIR/build KVM_STACK_CACHE=$BATS_TEST_TMPDIR/cache
	LINUX=$KVM_STACK_BUILD/linux
	mini_kernel "$LINUX"
	mkdir -p "$LINUX"/{tools/objtool,arch/x86/kvm,scripts/kconfig}
	touch "$LINUX"/tools/objtool/Build "$LINUX"/arch/x86/kvm/Makefile
	# A symbol whose default is in the tree; config/NAME is what is "built" with it.
	echo "config DEFAULT n" >"$LINUX/Kconfig"
	cat >"$LINUX/Makefile" <<-'EOF'
		K := $(or $(KCONFIG_CONFIG),$(O)/.config)
		tinyconfig: ; @: >$(K)
		olddefconfig: ; @grep -q DEFAULT $(K) || sed -n 's/^config DEFAULT /CONFIG_DEFAULT=/p' Kconfig >>$(K)
		toy/: ; @cp $(O)/.config $(O)/toy
	EOF
	printf '#!/bin/sh\nshift 2\ncat "$@" >>"$KCONFIG_CONFIG"\n' >"$LINUX/scripts/kconfig/merge_config.sh"
	chmod +x "$LINUX/scripts/kconfig/merge_config.sh"
	# Debian's: every new file at the top level and below is ignored.
	echo '/*' >"$LINUX/.gitignore"
	git -C "$LINUX" init -q -b stack
	commit_all "$LINUX" base
	git -C "$LINUX" tag base
	printf '# arch: x86_64\n# start: tinyconfig\n# target: toy/\n\nCONFIG_TOY=y\n' >"$PROJECT/ci/configs/toy.config"
}

kernel() {
	"$PROJECT/ci/kernel" --config toy "$@"
}

# in_tree COMMAND: with the functions of ci/lib/tree.sh.
in_tree() {
	bash -c 'set -euo pipefail; . "$0/scripts/common.sh"; . "$0/ci/lib/tree.sh"; '"$1" "$PROJECT"
}

@test "a symbol whose default changes has the new one, whatever was built before" {
	out=$(kernel --tree base)
	grep -qx CONFIG_DEFAULT=n "$out/config"
	sed -i 's/DEFAULT n/DEFAULT y/' "$LINUX/Kconfig"
	out=$(kernel --tree stack)
	grep -qx CONFIG_DEFAULT=y "$out/config"
	grep -qx CONFIG_DEFAULT=y "$KVM_STACK_BUILD/obj/toy/toy"
}

@test "--add: symbols and files laid over a config, in the key, and asserted" {
	plain=$(kernel --tree base)
	printf 'CONFIG_ONE=1\nCONFIG_TWO=2\n' >"$BATS_TEST_TMPDIR/fragment"
	out=$(kernel --tree base --add "$BATS_TEST_TMPDIR/fragment" --add TWO=y --add CONFIG_THREE=n)
	[[ $out != "$plain" ]]
	grep -qx CONFIG_ONE=1 "$out/config"
	grep -qx CONFIG_TWO=y "$out/config"
	grep -qx '# CONFIG_THREE is not set' "$out/config"
	[[ $(kernel --tree base) == "$plain" ]]
	refute grep -q ONE "$plain/config"
	# A merge that drops what it was given.
	sed -i 's/^cat .*/cat "$@" | grep -v NOBODY >>"$KCONFIG_CONFIG"/' "$LINUX/scripts/kconfig/merge_config.sh"
	commit_all "$LINUX" "another merge"
	run kernel --tree stack --add NOBODY_KNOWS=y
	fails_with 1 "not honoured by this tree: CONFIG_NOBODY_KNOWS=y"
	run kernel --tree base --add no-such-file
	fails_with 2 "neither a file nor SYMBOL=VALUE"
}

@test "an equal .config is not written again" {
	kernel --tree base
	touch -d '2001-01-01' "$KVM_STACK_BUILD/obj/toy/.config"
	echo '# a comment' >>"$LINUX/Kconfig"
	kernel --tree stack
	[[ $(stat -c %Y "$KVM_STACK_BUILD/obj/toy/.config") == "$(date -d 2001-01-01 +%s)" ]]
}

@test "another linker, another image" {
	mkdir "$BATS_TEST_TMPDIR/bin"
	one=$(kernel --tree base)
	printf '#!/bin/sh\necho "GNU ld 99"\n' >"$BATS_TEST_TMPDIR/bin/ld"
	chmod +x "$BATS_TEST_TMPDIR/bin/ld"
	two=$(PATH=$BATS_TEST_TMPDIR/bin:$PATH kernel --tree base)
	[[ $one != "$two" ]]
}

@test "a compiler that no one knows is a mistake in the config" {
	sed -i '1i# cc: tcc' "$PROJECT/ci/configs/toy.config"
	run kernel --tree base
	fails_with 2 "no compiler 'tcc'"
	run kernel --tree base --cc ucc
	fails_with 2 "no compiler 'ucc'"
	kernel --tree base --cc gcc
}

@test "new files are in the snapshot, what patch and editors leave is not" {
	echo new >"$LINUX/virt/kvm/newfile.c"
	echo new >"$LINUX/newfile.h"
	touch "$LINUX/virt/kvm/kvm_main.c.rej" "$LINUX/virt/kvm/kvm_main.c~"
	files=$(git -C "$LINUX" ls-tree -r --name-only "$(in_tree snapshot)")
	grep -qx virt/kvm/newfile.c <<<"$files"
	grep -qx newfile.h <<<"$files"
	refute grep -E '\.rej$|~$' <<<"$files"
}

@test "who waits for a source directory says so" {
	exec 7>"$KVM_STACK_BUILD/src.lock"
	flock 7
	(sleep 1; flock -u 7) &
	run in_tree 'checkout_tree base src'
	exec 7>&-
	[[ $status == 0 && $output == *"waiting for build/src, which another build uses"* ]]
}

@test "ci/prune: what was not used for 30 days goes; of images, those beyond 20 that are a day old" {
	cache=$KVM_STACK_CACHE/kernel
	for i in {10..32}; do
		mkdir -p "$cache/lane-0000000000$i" "$cache/other-0000000000$i"
		touch "$cache"/{lane,other}-0000000000"$i"/bzImage
		touch -d "$i hours ago" "$cache"/{lane,other}-0000000000"$i"
	done
	mkdir "$cache/old-000000000001" "$cache/used-000000000001"
	touch -d '31 days ago' "$cache/old-000000000001"
	touch -d '29 days ago' "$cache/used-000000000001"
	"$PROJECT/ci/prune"
	[[ ! -e $cache/old-000000000001 && -e $cache/used-000000000001 ]]
	[[ $(printf '%s\n' "$cache"/lane-* | wc -l) == 20 && ! -e $cache/other-000000000032 ]]
	run "$PROJECT/ci/prune" --all
	fails_with 2 "unknown option '--all'"
}

@test "make clean keeps build/linux and the results of a soak" {
	mkdir -p "$KVM_STACK_BUILD"/{obj/lane,soak,bin}
	make -s -C "$PROJECT" clean
	[[ -e $LINUX/Kbuild && -d $KVM_STACK_BUILD/soak && ! -e $KVM_STACK_BUILD/obj && ! -e $KVM_STACK_BUILD/bin ]]
	(
		exec 7>"$KVM_STACK_BUILD/src.lock"
		flock 7
		run "$PROJECT/ci/prune" --build
		fails_with 3 "src is in use"
	)
}

@test "make help lists every target" {
	run make -s -C "$PROJECT" help
	for target in run report check soak clean help; do
		[[ $output == *"make $target"* ]]
	done
}
