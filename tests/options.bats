#!/usr/bin/env bats
# ci/run's options for people: what runs, where, and with what; with an emulator that is a script, see
# tests/fake.

load common

setup() {
	fake_bed
	export KVM_STACK_REPORT=$REPORT
	ONE=(--kernel "$IMAGE" --lane svm-tdp --program "$PROGRAM")
}

@test "words for the kernel's command line come after the lane's, and the lane's own stay" {
	run "$RUN" "${ONE[@]}" --lane svm-shadow --append 'a=1 b="two words"'
	[[ $status == 0 ]] || { echo "$output"; false; }
	grep -q 'kvm_amd\.npt=0 .*a=1 b="two words"$' "$FAKE/cmdline"
	run "$RUN" --append
	fails_with 2 "--append wants words"
}

@test "--config reaches the kernels that are built, and the report" {
	fake_trees
	run "$RUN" --kernel stack --lane svm-tdp --test one --config KASAN=y --config FOO=2
	[[ $status == 0 ]] || { echo "$output"; false; }
	grep -q -- '--config lane --add KASAN=y --add FOO=2$' "$FAKE/built"
	grep -q 'with KASAN=y FOO=2 in the config' "$REPORT/summary.md"
	run "$RUN" "${ONE[@]}" --config KASAN=y
	fails_with 2 "--config goes without an image"
	run "$RUN" --config
	fails_with 2 "--config wants a file, or SYMBOL=VALUE"
}

@test "--cc reaches the kernels that are built, and the report" {
	fake_trees
	run "$RUN" --kernel stack --lane svm-tdp --test one --cc newer-clang
	[[ $status == 0 ]] || { echo "$output"; false; }
	grep -q -- '--config lane --cc newer-clang$' "$FAKE/built"
	grep -q 'compiled by newer-clang' "$REPORT/summary.md"
	run "$RUN" "${ONE[@]}" --cc gcc
	fails_with 2 "--cc goes without an image"
	run "$RUN" --cc tcc
	fails_with 2 "--cc takes gcc, newer-gcc or newer-clang, not 'tcc'"
}

@test "arguments for QEMU arrive as they are, one by one" {
	run "$RUN" "${ONE[@]}" --qemu -name --qemu 'a b,c'
	[[ $status == 0 ]] || { echo "$output"; false; }
	grep -qF -- "-name a\\ b\\,c" "$REPORT"/vm/*/command
}

@test "an accelerator that the machine can't offer is the environment's fault, one that is none the user's" {
	run "$RUN" "${ONE[@]}" --accel kvm
	fails_with 3 "--accel tcg emulates it"
	run "$RUN" "${ONE[@]}" --accel tcg
	[[ $status == 0 ]] || { echo "$output"; false; }
	run "$RUN" "${ONE[@]}" --accel hvf
	fails_with 2 "--accel takes kvm or tcg, not 'hvf'"
}

@test "what a lane's emulator takes is installed for that lane, and known" {
	fake_trees
	# What is asked for, instead of asking apt for it.
	echo 'need_packages() { printf "%s\n" "$@" >"$FAKE/packages"; exit 3; }' >>"$PROJECT/scripts/common.sh"
	wants() {
		run "$RUN" --kernel stack --lane "$1" --test smoke
		[[ $status == 3 ]] || { echo "$output"; false; }
		for program in "${@:2}"; do
			grep -qxF "$program" "$FAKE/packages" || { echo "$1 does without $program"; false; }
			grep -qE " $program\$" "$REAL/scripts/packages" || { echo "no package for $program"; false; }
		done
	}
	for lane in vmx-ept vmx-shadow; do
		wants $lane gcc cpio busybox grub-mkrescue xorriso /usr/lib/grub/i386-pc/linux.mod
		# Bochs itself comes from another suite.
		refute grep -q 'bochs\|qemu' "$FAKE/packages"
	done
	wants svm-tdp qemu-system-x86_64
	refute grep -q grub "$FAKE/packages"
}

@test "a lane that has another one for a guest takes along what boots that with KVM" {
	fake_trees
	printf '%s\n' like=svm-tdp vmm=qemu-system-x86_64 guest=inner tests=a >"$PROJECT/ci/lanes/outer"
	printf '%s\n' like=svm-tdp smp=3 append=of-the-inner tests=b >"$PROJECT/ci/lanes/inner"
	echo 'one 10 program' >"$PROJECT/ci/sets/a"
	echo 'two 10 program' >"$PROJECT/ci/sets/b"
	run "$RUN" --kernel stack --lane outer
	[[ $status == 0 ]] || { echo "$output"; false; }
	grep -q '^test one ' "$FAKE/plan.1"
	grep -q -- ' -accel kvm -cpu host -smp 3 .* -kernel /guest/kernel .*of-the-inner' "$FAKE/plan.1"
}

@test "--gdb: QEMU waits, what to type is said, the kernel has debug information, and nothing is in a hurry" {
	fake_trees
	touch "$BATS_TEST_TMPDIR/kernel/vmlinux"
	run "$RUN" --lane svm-tdp --test one --gdb
	[[ $status == 0 ]] || { echo "$output"; false; }
	[[ $output =~ "waiting for: gdb $BATS_TEST_TMPDIR/kernel/vmlinux -ex 'target remote "(/[^ ]*)"'" ]]
	grep -qF -- "-S -gdb unix:${BASH_REMATCH[1]}\\,server=on" "$REPORT"/vm/*/command
	grep -q -- '--add DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT=y' "$FAKE/built"
	grep -q '^test one 1000000 ' "$FAKE/plan.1"
	run "$RUN" "${ONE[@]}" --gdb
	[[ $status == 0 && $output == *"waiting for: gdb VMLINUX "* ]] || { echo "$output"; false; }
	run "$RUN" --kernel both --lane svm-tdp --gdb
	fails_with 2 "--gdb takes one kernel"
	run "$RUN" --lane svm-tdp,svm-shadow --test one --gdb
	fails_with 2 "--gdb takes one lane, not svm-tdp svm-shadow"
	run "$RUN" --lane vmx-ept --test one --gdb
	fails_with 2 "--gdb: Bochs has no way in for one"
}

# kut_checkout: KUT becomes what --kut takes.
kut_checkout() {
	KUT=$BATS_TEST_TMPDIR/kvm-unit-tests
	mkdir -p "$KUT/x86"
	cat >"$KUT/x86/unittests.cfg" <<-'E'
		[one]
		file = a.flat
		smp = 3
		test_args = "first 'and second'"
		qemu_params = -cpu max,+svm -name "two words"
		arch = x86_64

		[for-i386]
		file = a.flat
		arch = i386

		[checked]
		file = a.flat
		check = /no/such/parameter=Y

		[not-built]
		file = b.flat
	E
	touch "$KUT/x86/a.flat"
}

@test "kvm-unit-tests: the set's tests on the lane's KVM, or those that are asked for" {
	fake_trees
	kut_checkout
	printf '%s\n' '# arch: x86_64' 'kut-one 10 kut one' 'kut-two 10 kut two' >"$PROJECT/ci/sets/kut"
	run "$RUN" --kernel stack --lane svm-tdp --kut "$KUT"
	[[ $status == 0 ]] || { echo "$output"; false; }
	[[ $(grep -c '^test kut-' "$FAKE/plan.1") == 2 ]]
	run "$RUN" --kernel stack --lane svm-tdp --kut "$KUT" --test kut-two
	[[ $status == 0 && $(grep -c '^test ' "$FAKE/plan.2") == 1 ]] || { echo "$output"; false; }
	run "$RUN" --kernel stack --lane svm-tdp --test kut-one
	fails_with 2 "not where they are: --kut DIR"
	run "$RUN" --kernel stack --kut "$BATS_TEST_TMPDIR"
	fails_with 2 "is no checkout of kvm-unit-tests"
	rm "$KUT/x86/a.flat"
	run "$RUN" --kernel stack --kut "$KUT"
	fails_with 2 "./configure and make it"
	run "$RUN" --kut "$KUT" --shell
	fails_with 2 "--kut goes without --program and --shell"
	run "$RUN" --kut
	fails_with 2 "--kut wants a directory"
}

@test "kvm-unit-tests: how one is run, and how it ends" {
	kut_checkout
	printf '#!/bin/sh\nprintf "<%%s>" "$@"\nexit $CODE\n' >"$BATS_TEST_TMPDIR/qemu"
	chmod +x "$BATS_TEST_TMPDIR/qemu"
	# one NAME CODE [ARG...]: NAME, with a QEMU that exits with CODE.
	one() {
		CODE=$2 KUT=$KUT/x86 QEMU=$BATS_TEST_TMPDIR/qemu run sh "$PROJECT/ci/guest/programs/kut" "$1" "${@:3}"
	}
	one one 1
	[[ $status == 0 && $output == *"<-kernel><$KUT/x86/a.flat><-smp><3><-append><first 'and second'><-cpu><max,+svm><-name><two words>" ]] ||
		{ echo "$output"; false; }
	one one 1 -cpu 'max,-pku' 'of two  words'
	[[ $status == 0 && $output == *"<-name><two words><-cpu><max,-pku><of two  words>" ]] || { echo "$output"; false; }
	one one 3
	[[ $status == 1 && $output == *"exit status: 3" ]]
	one one 0
	[[ $status == 1 ]]
	one one 77
	[[ $status == 4 && $output == *"# SKIP <--no-reboot>"* ]]
	printf '#!/bin/sh\necho "KVM internal error. Suberror: 3"\necho RAX=0\nexec sleep 60\n' >"$BATS_TEST_TMPDIR/qemu"
	one one
	[[ $status == 1 && $output == "KVM internal error. Suberror: 3"*"RAX=0"*" not ok 1 KVM internal error. Suberror: 3, QEMU's exit status: 143" ]] ||
		{ echo "$output"; false; }
	printf '#!/bin/sh\necho "SKIP: no such thing"\nprintf "\\r\\n"\necho "SUMMARY: 1 tests, 1 skipped"\nexit 77\n' >"$BATS_TEST_TMPDIR/qemu"
	one one
	[[ $status == 4 && $output == *"# SKIP no such thing" ]] || { echo "$output"; false; }
	printf '#!/bin/sh\necho PASS: a\necho FAIL: b\necho FAIL: c\nexit 3\n' >"$BATS_TEST_TMPDIR/qemu"
	one one
	[[ $status == 1 && $output == *" not ok 1 FAIL: b, QEMU's exit status: 3" ]] || { echo "$output"; false; }
	one for-i386 1
	[[ $status == 4 && $output == *"# SKIP for-i386 is for i386" ]]
	one checked 1
	[[ $status == 4 && $output == *"# SKIP not so: /no/such/parameter=Y" ]]
	one not-built 1
	[[ $status == 4 && $output == *"# SKIP b.flat is not built" ]]
	one none 1
	[[ $status == 1 && $output == "no [none] in unittests.cfg" ]]
}

@test "patterns of lanes and of tests" {
	fake_trees
	dry() {
		"$RUN" --kernel stack --dry-run "$@"
	}
	[[ $(dry --lane 'svm-*-nx' --test one | cut -d: -f1 | paste -sd' ') == "svm-shadow-nx svm-tdp-nosplit-nx svm-tdp-nx svm-tdp-shadow-nx" ]]
	[[ $(dry --lane svm-tdp --test 'two*') == *": two two-more" ]]
	[[ $(dry --lane svm-tdp --test 'two*,one') == *": two two-more one" ]]
	# They are no patterns of files.
	mkdir "$BATS_TEST_TMPDIR/cwd"
	cd "$BATS_TEST_TMPDIR/cwd"
	touch two.txt svm-tdp.txt
	[[ $(dry --lane 'svm-td*p' --test 'two*') == *": two two-more" ]]
	run dry --lane 'vax-*'
	fails_with 2 "no lane matches 'vax-*'"
	run dry --lane svm-tdp --test 'no-such-*'
	fails_with 2 "no test or set 'no-such-*'"
}

@test "a dry run builds and boots nothing, and leaves the last report alone" {
	fake_trees
	mkdir -p "$REPORT" && echo kept >"$REPORT/results.tsv"
	run "$RUN" --lane svm-tdp --test fake --dry-run
	[[ $status == 0 && $output == "svm-tdp: tcg, kernel base stack, config lane: one two two-more" ]] || { echo "$output"; false; }
	[[ ! -e $FAKE/built && ! -e $FAKE/boots && $(<"$REPORT/results.tsv") == kept ]]
}

@test "again: what failed, where it failed" {
	fake_trees
	run "$RUN" --again
	fails_with 2 "--again: no report in $REPORT"
	scene two 'not ok # exit=1'
	run "$RUN" --kernel stack --lane svm-tdp --test fake
	[[ $status == 1 ]] || { echo "$output"; false; }
	run "$RUN" --kernel stack --again --lane svm-tdp
	fails_with 2 "--again goes without --lane"
	rm "$FAKE/two"
	run "$RUN" --kernel stack --again
	[[ $status == 0 && $(cut -f1,4,5 "$REPORT/results.tsv") == $'svm-tdp\ttwo\tpassed' ]] || { echo "$output"; false; }
	run "$RUN" --kernel stack --again
	[[ $status == 0 && $output == *"nothing failed in $REPORT"* ]] || { echo "$output"; false; }
}

@test "for git bisect run: good, bad, and neither" {
	run "$RUN" --bisect "${ONE[@]}"
	[[ $status == 0 ]] || { echo "$output"; false; }
	scene program 'not ok # exit=1'
	run "$RUN" "${ONE[@]}" --bisect
	[[ $status == 1 ]] || { echo "$output"; false; }
	scene program '> [    2.0] Kernel panic - not syncing: x' exit
	run "$RUN" "${ONE[@]}" --bisect
	[[ $status == 125 ]] || { echo "$output"; false; }
	run "$RUN" "${ONE[@]}" --bisect --lane vax
	[[ $status == 125 ]] || { echo "$output"; false; }
	# A report of before doesn't make a kernel that doesn't build a bad one.
	fake_trees
	scene one 'not ok # exit=1'
	run "$RUN" --bisect --kernel stack --lane svm-tdp --test one
	[[ $status == 1 ]] || { echo "$output"; false; }
	# Nor is that of another run, which is under way, touched.
	cp "$REPORT/results.tsv" "$BATS_TEST_TMPDIR/theirs"
	exec 7>"$REPORT/.lock"
	flock 7
	run "$RUN" --bisect --kernel stack --lane svm-tdp --test one
	exec 7>&-
	[[ $status == 125 ]] || { echo "$output"; false; }
	cmp "$REPORT/results.tsv" "$BATS_TEST_TMPDIR/theirs"
	printf '#!/bin/sh\nexit 1\n' >"$PROJECT/ci/kernel"
	run "$RUN" --bisect --kernel stack --lane svm-tdp --test one
	[[ $status == 125 ]] || { echo "$output"; false; }
	# A test that could not be built leaves the last report as it is.
	cp "$BATS_TEST_TMPDIR/theirs" "$REPORT/results.tsv"
	printf '#!/bin/sh\nexit 1\n' >"$PROJECT/ci/selftests"
	run "$RUN" --bisect --kernel stack --lane svm-tdp --test one
	[[ $status == 125 ]] || { echo "$output"; false; }
}

@test "progress says how much of it there is" {
	fake_trees
	run "$RUN" --kernel stack --lane svm-tdp --test fake
	[[ $status == 0 && $output == *"svm-tdp stack: ok 2/3 two"* ]] || { echo "$output"; false; }
	# For how long, if the last report has all of it.
	[[ $output == *"booting, 3 tests, accelerator tcg"$'\n'* ]]
	awk -F'\t' -v OFS='\t' '{ $6 = 150000 } 1' "$REPORT/results.tsv" >"$BATS_TEST_TMPDIR/slow"
	cp "$BATS_TEST_TMPDIR/slow" "$REPORT/results.tsv"
	run "$RUN" --kernel stack --lane svm-tdp --test fake
	[[ $output == *"booting, 3 tests, accelerator tcg, about 8 min"* ]] || { echo "$output"; false; }
	run "$RUN" --kernel stack --lane svm-tdp --test one
	[[ $output == *"booting, 1 tests, accelerator tcg, less than a minute"* ]] || { echo "$output"; false; }
}
