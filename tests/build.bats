#!/usr/bin/env bats
# ci/kernel, ci/prune and ci/lib/tree.sh: what is built, of what, and what is kept; on a kernel tree of a
# few files, whose Makefile compiles nothing.

load common

setup() {
	copy_project
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
		toy/: ; @cp $(O)/.config $(O)/toy; env >$(O)/environment
		bzImage: ; @mkdir -p $(O)/arch/x86/boot; echo x >$(O)/arch/x86/boot/bzImage; echo x >$(O)/System.map
		kernelrelease: ; @echo 7
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

# with_library: LINUX has what ci/selftests looks for in a library of selftests.
with_library() {
	mkdir -p "$LINUX/tools/testing/selftests/kvm/include"
	echo 'new_kvm_random_state(' >"$LINUX/tools/testing/selftests/kvm/include/test_util.h"
	printf '%s\n' pthread_create, sched_setaffinity, >"$LINUX/tools/testing/selftests/kvm/include/kvm_syscalls.h"
	echo WRITE_AND_SYNC_TO_GUEST >"$LINUX/tools/testing/selftests/kvm/include/kvm_util.h"
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

@test "--add: two builds at once, each with its own" {
	exec 7>"$KVM_STACK_BUILD/src.lock"
	flock 7
	for n in ONE TWO; do
		kernel --tree base --add $n=y >"$BATS_TEST_TMPDIR/$n" 2>"$BATS_TEST_TMPDIR/log" 7>&- 3>&- &
		for ((i = 0; i < 300; i++)); do
			! grep -qs "waiting for build/src" "$BATS_TEST_TMPDIR/log" || break
			sleep 0.1
		done
		rm "$BATS_TEST_TMPDIR/log"
	done
	exec 7>&-
	wait
	for n in ONE TWO; do
		[[ $(grep -x 'CONFIG_\(ONE\|TWO\)=y' "$(<"$BATS_TEST_TMPDIR/$n")/config") == "CONFIG_$n=y" ]]
	done
}

@test "an equal .config is not written again" {
	kernel --tree base
	touch -d '2001-01-01' "$KVM_STACK_BUILD/obj/toy/.config"
	echo '# a comment' >>"$LINUX/Kconfig"
	kernel --tree stack
	[[ $(stat -c %Y "$KVM_STACK_BUILD/obj/toy/.config") == "$(date -d 2001-01-01 +%s)" ]]
}

@test "an image that is not whole is not taken from the cache" {
	sed -i 's/^# target: .*/# target: bzImage/' "$PROJECT/ci/configs/toy.config"
	out=$(kernel --tree base)
	run kernel --tree base
	[[ $status == 0 && $output == "$out" ]] || { echo "$output"; false; }
	: >"$out/bzImage"
	run kernel --tree base
	[[ $status == 0 && $output == *"building base"* && -s $out/bzImage ]] || { echo "$output"; false; }
	rm "$out/bzImage"
	run kernel --tree base
	[[ $status == 0 && -s $out/bzImage ]] || { echo "$output"; false; }
}

@test "make is told nothing by the caller's environment" {
	LLVM=1 CC=false ARCH=m68k KCFLAGS=-Dx W=1 KBUILD_OUTPUT=/nowhere KCONFIG_ALLCONFIG=/nowhere CROSS_COMPILE=no- \
		MAKEFLAGS=--no-such-option run kernel --tree base
	[[ $status == 0 ]] || { echo "$output"; false; }
	refute grep -E '^(LLVM|KCFLAGS|W|KBUILD_OUTPUT|KCONFIG_ALLCONFIG)=|no-such-option|m68k' "$KVM_STACK_BUILD/obj/toy/environment"
}

@test "a path that kbuild doesn't take is not the stack's fault" {
	for build in "with a blank" with:a-colon; do
		mkdir "$BATS_TEST_TMPDIR/$build"
		cp -a "$KVM_STACK_BUILD" "$BATS_TEST_TMPDIR/$build/"
		KVM_STACK_BUILD=$BATS_TEST_TMPDIR/$build/build run kernel --tree base
		fails_with 3 "kbuild takes no blanks or colons in a path, and builds would be in $BATS_TEST_TMPDIR/$build/build"
	done
}

@test "a compiler that cannot be had, a mutation that doesn't apply: nothing goes on without" {
	no_network
	run kernel --tree base --cc newer-gcc
	fails_with 3 "cannot download gcc-14 of trixie"
	printf '%s\n' 'Lane: x' --- 'diff --git a/Kconfig b/Kconfig' '--- a/Kconfig' '+++ b/Kconfig' '@@ -1 +1 @@' -no +yes \
		>"$PROJECT/ci/mutations/mine.patch"
	run kernel --tree base+mine
	[[ $status == 1 && $output == *"mine.patch does not apply"* && $output != *"internal error"* ]] || { echo "$output"; false; }
}

@test "a program is that of its source, whichever is newer" {
	echo 'int main(void) { return 1; }' >"$BATS_TEST_TMPDIR/toy.c"
	one=$(in_tree "compiled $BATS_TEST_TMPDIR/toy.c gcc")
	echo 'int main(void) { return 2; }' >"$BATS_TEST_TMPDIR/toy.c"
	touch -d '1 hour ago' "$BATS_TEST_TMPDIR/toy.c"
	two=$(in_tree "compiled $BATS_TEST_TMPDIR/toy.c gcc")
	run "$one"
	[[ $status == 1 ]]
	run "$two"
	[[ $status == 2 ]]
}

@test "what was downloaded is there whole, or not at all" {
	mkdir "$BATS_TEST_TMPDIR/bin"
	printf '#!/bin/sh\ncase $* in *" download "*) : >busybox-static_1.deb ;; esac\n' >"$BATS_TEST_TMPDIR/bin/apt-get"
	# Half of it, and then the disk is full.
	printf '#!/bin/sh\nmkdir -p "$3/bin"; echo "$SAYS" >"$3/bin/busybox"; [ "$SAYS" = whole ]\n' >"$BATS_TEST_TMPDIR/bin/dpkg-deb"
	chmod +x "$BATS_TEST_TMPDIR"/bin/*
	PATH=$BATS_TEST_TMPDIR/bin:$PATH
	busybox() {
		SAYS=$1 run in_tree 'for f in lane bochs newer vm; do . "$ROOT/ci/lib/$f.sh"; done; LANE[arch]=riscv; lane_busybox'
	}
	busybox half
	fails_with 3 "cannot download busybox-static:riscv64"
	busybox whole
	[[ $status == 0 && $(<"${lines[-1]}") == whole ]] || { echo "$output"; false; }
	# An emulator's package the same way.
	SAYS=half run in_tree '. "$ROOT/ci/lib/newer.sh"; unpack_package trixie toy'
	[[ $status == 3 && ! -e $KVM_STACK_CACHE/deb/toy.trixie ]] || { echo "$output"; false; }
}

@test "selftests: what a tree no longer has is not packed, and which programs there are is in the key" {
	mkdir -p "$BATS_TEST_TMPDIR/bin"
	kvm=$LINUX/tools/testing/selftests/kvm
	with_library
	mkdir -p "$LINUX"/{include/uapi,arch/x86/include/uapi}
	touch "$LINUX"/{include/uapi,arch/x86/include/uapi}/x.h
	echo 'headers: ;' >>"$LINUX/Makefile"
	mkdir "$LINUX/tools/testing/selftests/kselftest"
	touch "$LINUX"/tools/testing/selftests/{run_kselftest.sh,kselftest/runner.sh,kvm/settings}
	printf '%s\n' 'TEST_GEN_PROGS_x86 ?= old_test' 'all: $(TEST_GEN_PROGS_x86)' \
		'emit_tests: ; @for t in $(TEST_GEN_PROGS_x86); do echo $(COLLECTION):$$t; done' '%_test: ; @mkdir -p $(OUTPUT)/$(@D); cp /bin/true $(OUTPUT)/$@' >"$kvm/Makefile"
	commit_all "$LINUX" one
	git -C "$LINUX" tag one
	sed -i 's/old_test/other_test/' "$kvm/Makefile"
	commit_all "$LINUX" two
	find "$PROJECT/selftests" -name '*.[chS]' -delete
	echo 'int x;' >"$PROJECT/selftests/mine_test.c"
	selftests() {
		"$PROJECT/ci/selftests" --tree "$1" 2>/dev/null
	}
	one=$(selftests one)
	[[ $(cd "$one" && ls) == built$'\n'kselftest$'\n'mine_test$'\n'old_test ]]
	[[ $(<"$one/kselftest/kselftest-list.txt") == kvm:old_test ]]
	two=$(selftests HEAD)
	[[ $(cd "$two" && ls) == built$'\n'kselftest$'\n'mine_test$'\n'other_test ]]
	# As one run may use the first while the second one builds.
	[[ -x $one/old_test && $(selftests one) == "$one" ]]
	mv "$PROJECT/selftests"/{mine,more}_test.c
	[[ $(cd "$(selftests HEAD)" && ls) == built$'\n'kselftest$'\n'more_test$'\n'other_test ]]
	# Beyond the newest three, too, it stays for as long as a run may be at it.
	for name in fourth fifth; do
		[[ -x $two/other_test ]]
		mv "$PROJECT"/selftests/*_test.c "$PROJECT/selftests/${name}_test.c"
		selftests HEAD
		[[ $name == fifth ]] || { [[ -x $two/other_test ]] && touch -d '2 days ago' "$two"; }
	done
	[[ -x $one/old_test && ! -e $two ]]
}

@test "a soak goes on where it was, and says of which commit each part is" {
	printf '#!/bin/sh\necho "$*" >>"%s/ran"\necho "1 passed, 0 failed, 0 skipped"\n' "$BATS_TEST_TMPDIR" |
		tee "$PROJECT"/ci/{run,kernel,mutants,debian} >"$PROJECT/scripts/stack"
	git -C "$PROJECT" init -q
	commit_all "$PROJECT" first
	first=$(git -C "$PROJECT" rev-parse --short HEAD)
	"$PROJECT/ci/soak"
	parts=$(wc -l <"$BATS_TEST_TMPDIR/ran")
	grep -q "^## perf: exit 0, of $first, 2" "$KVM_STACK_BUILD/soak/summary.md"
	echo >>"$PROJECT/README.md"
	commit_all "$PROJECT" second
	rm "$KVM_STACK_BUILD/soak/vmx.code"
	"$PROJECT/ci/soak"
	[[ $(wc -l <"$BATS_TEST_TMPDIR/ran") == $((parts + 1)) ]]
	grep -q "^## perf: exit 0, of $first, 2" "$KVM_STACK_BUILD/soak/summary.md"
	grep -q "^## vmx: exit 0, of $(git -C "$PROJECT" rev-parse --short HEAD), 2" "$KVM_STACK_BUILD/soak/summary.md"
}

@test "a daemon that a compiler begins and leaves behind keeps no lock" {
	cat >>"$LINUX/Makefile" <<-EOF
		toy/: daemon
		daemon: ; @setsid sleep 600 >/dev/null 2>&1 3>&- & echo \$\$! >$BATS_TEST_TMPDIR/daemon
	EOF
	kernel --tree stack
	kill -0 "$(<"$BATS_TEST_TMPDIR/daemon")"
	code=0
	flock -n "$KVM_STACK_BUILD/src.lock" true || code=$?
	kill "$(<"$BATS_TEST_TMPDIR/daemon")"
	((code == 0))
}

@test "a build that is killed leaves no make behind" {
	with_library
	mkdir -p "$LINUX"/{include/uapi,arch/x86/include/uapi}
	touch "$LINUX"/{include/uapi/a.h,arch/x86/include/uapi/a.h}
	cat >>"$LINUX/Makefile" <<-EOF
		toy/ headers: hang
		hang: ; @echo \$\$PPID >$BATS_TEST_TMPDIR/make; exec sleep 600
	EOF
	commit_all "$LINUX" "it takes a while"
	for program in "kernel --config toy" selftests; do
		rm -f "$BATS_TEST_TMPDIR/make"
		# shellcheck disable=SC2086 # words are meant
		"$PROJECT"/ci/$program --tree stack >"$BATS_TEST_TMPDIR/log" 2>&1 3>&- &
		for ((i = 0; i < 600; i++)); do
			[[ ! -s $BATS_TEST_TMPDIR/make ]] || break
			sleep 0.1
		done
		kill -KILL $!
		for ((i = 0; i < 100; i++)); do
			kill -0 "$(<"$BATS_TEST_TMPDIR/make")" 2>/dev/null || break
			sleep 0.1
		done
		((i < 100)) || { echo "$program: make goes on"; kill "$(<"$BATS_TEST_TMPDIR/make")"; false; }
		flock -w 10 "$KVM_STACK_BUILD/src.lock" true
	done
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

@test "a library of selftests that the new ones cannot do with: from which release on they can" {
	# Here, the base's is no newer.
	run "$PROJECT/ci/selftests" --tree base
	fails_with 3 "the new selftests want the library of selftests of Linux 7.3 or later, which neither tree base nor the base has"
	[[ ! -d $KVM_STACK_BUILD/src ]]
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
