#!/usr/bin/env bats
# What ci/run makes of what it sees: whole runs with an emulator that is a script, see tests/fake.

load common
load hostile

setup() {
	fake_bed
	export KVM_STACK_REPORT=$REPORT
	ONE=(--kernel "$IMAGE" --lane svm-tdp --program "$PROGRAM")
}

# Signs of the errata: on x86, and the like of arm64's, which here appear in an x86 lane.
TRACE='# trace:   vcpu-71  [000] .....  3.1: kvm_exit: vcpu 0 reason shutdown rip 0xffffffff81012346 info1 0x0'
SIGN='> [    1.5] WARNING: arch/arm64/kvm/debug.c:157 at kvm_vcpu_load_debug+0x24/0x1c0, CPU#0: x/71'

@test "what passes has passed" {
	run "$RUN" "${ONE[@]}"
	[[ $status == 0 && $(outcome program) == passed ]] || { echo "$output"; false; }
	grep -qx '# Verdict: passed' "$REPORT/summary.md"
}

@test "what fails has failed, with its own words" {
	scene program '| ==== Test Assertion Failure ====' '|   the sentence' 'not ok # exit=254'
	run "$RUN" "${ONE[@]}"
	[[ $status == 1 && $(outcome program) == failed && $output == *"exit=254: the sentence"* ]] || { echo "$output"; false; }
}

@test "what a test prints is never taken for what init says" {
	# As init prints it, see verdict.awk's golden cases for what a test may say.
	grep -q 'say("#| %s", out->line)' "$PROJECT/ci/guest/init.c"
	scene program '| # done with step 1' '| Bail out! of a plane' '> [    2.0] Kernel panic - not syncing: x' exit
	run "$RUN" "${ONE[@]}"
	[[ $status == 5 && $(outcome program) == lost ]] || { echo "$output"; false; }
	rm "$FAKE/boots"
	scene program '| # done with step 1' exit
	run "$RUN" "${ONE[@]}"
	[[ $status == 4 && $(outcome program) == lost ]] || { echo "$output"; false; }
}

@test "an image is never taken for the base or the stack, whatever its name" {
	cp "$IMAGE" "$BATS_TEST_TMPDIR/base"
	scene program 'not ok # exit=1'
	run "$RUN" "${ONE[@]}" --kernel "$BATS_TEST_TMPDIR/base"
	[[ $status == 1 && $(outcome program) == failed ]] || { echo "$output"; false; }
	grep -q $'\timage-base\t' "$REPORT/results.tsv"
	cd "$BATS_TEST_TMPDIR"
	run "$RUN" "${ONE[@]}" --kernel ./base
	[[ $status == 1 ]] || { echo "$output"; false; }
}

@test "a splat is a failure although the test passed, with and without a time stamp" {
	for stamp in '[    1.5] ' '[    1.5][  T123] ' ''; do
		scene program "> ${stamp}WARNING: arch/x86/kvm/mmu/mmu.c:100 at mmu_set_spte+0x1/0x2, CPU#1: x/71"
		run "$RUN" "${ONE[@]}"
		[[ $status == 1 && $(outcome program) == splat ]] || { echo "$output"; false; }
	done
}

@test "a splat policy that can't be read, or lets all through, ends the run before anything is built" {
	bad() {
		run "$RUN" "${ONE[@]}"
		fails_with 2 "ci/splats/$1"
		[[ ! -e $FAKE/boots ]]
		cp "$REAL/ci/splats/"{allow,deny,errata} "$PROJECT/ci/splats/"
	}
	echo 'BUG: KCSAN: data-race in (a' >>"$PROJECT/ci/splats/allow"
	bad allow
	echo ' ' >>"$PROJECT/ci/splats/allow"
	bad allow
	echo 'x (y' >>"$PROJECT/ci/splats/deny"
	bad deny
	echo '# nothing' >"$PROJECT/ci/splats/deny"
	bad deny
	echo '(' >>"$PROJECT/ci/splats/errata"
	bad errata
	rm "$PROJECT/ci/splats/deny"
	bad deny
	# An allow list with nothing in it is fine, and allows nothing.
	: >"$PROJECT/ci/splats/allow"
	scene program '> [    1.5] BUG: KASAN: x'
	run "$RUN" "${ONE[@]}"
	[[ $status == 1 && $(outcome program) == splat ]] || { echo "$output"; false; }
}

@test "erratum: five clean runs must follow, and the verdict counts it" {
	scene program.1 "$TRACE" 'not ok # exit=254'
	run "$RUN" "${ONE[@]}"
	[[ $status == 0 && $(outcome program) == "erratum passed passed passed passed passed" ]] || { echo "$output"; false; }
	grep -qx '# Verdict: passed, errata of the emulator: 1' "$REPORT/summary.md"
	rm "$FAKE/boots"
	scene program.1 "$SIGN" hang
	KVM_CI_SILENCE=1 run "$RUN" "${ONE[@]}"
	[[ $status == 0 && $(outcome program) == "erratum passed passed passed passed passed" ]] || { echo "$output"; false; }
}

@test "erratum: one that comes back is exit 7, a failure in one of the five runs is exit 1" {
	scene program "$TRACE" 'not ok # exit=254'
	run "$RUN" "${ONE[@]}"
	[[ $status == 7 && $(outcome program) == "erratum erratum erratum erratum erratum erratum" ]] || { echo "$output"; false; }
	scene program 'not ok # exit=254'
	scene program.1 "$TRACE" 'not ok # exit=254'
	rm "$FAKE/boots"
	run "$RUN" "${ONE[@]}"
	[[ $status == 1 && $(outcome program) == "erratum failed"* ]] || { echo "$output"; false; }
}

@test "erratum: only under QEMU's TCG with threads, and only on CPU 0" {
	scene program "$TRACE" "$SIGN" 'not ok # exit=254'
	run "$RUN" "${ONE[@]}" --lane svm-tdp-icount
	[[ $status == 1 && $(outcome program) == splat ]] || { echo "$output"; false; }
	scene program "$TRACE" 'not ok # exit=254'
	run "$RUN" "${ONE[@]}" --lane svm-tdp-icount
	[[ $status == 1 && $(outcome program) == failed ]] || { echo "$output"; false; }
	printf '%s\n' like=svm-tdp smp=1 >"$PROJECT/ci/lanes/single"
	run "$RUN" "${ONE[@]}" --lane single
	[[ $status == 1 && $(outcome program) == failed ]] || { echo "$output"; false; }
	scene program "${TRACE/000/003}" 'not ok # exit=254'
	run "$RUN" "${ONE[@]}"
	[[ $status == 1 && $(outcome program) == failed ]] || { echo "$output"; false; }
	# Hardware: no emulator to blame.
	export KVM_CI_DEVICE=$BATS_TEST_TMPDIR/kvm KVM_CI_CPUINFO=$BATS_TEST_TMPDIR/cpuinfo KVM_CI_MODULES=$BATS_TEST_TMPDIR/module
	touch "$KVM_CI_DEVICE"
	echo 'flags		: svm' >"$KVM_CI_CPUINFO"
	mkdir -p "$KVM_CI_MODULES/kvm_amd/parameters"
	echo 1 >"$KVM_CI_MODULES/kvm_amd/parameters/nested"
	scene program "$TRACE" "$SIGN" 'not ok # exit=254'
	run "$RUN" "${ONE[@]}"
	[[ $status == 1 && $(outcome program) == splat ]] || { echo "$output"; false; }
}

@test "erratum: no excuse for a panic, KASAN, lockdep or a corrupted list" {
	for splat in 'BUG: KASAN: slab-use-after-free in x' 'WARNING: possible circular locking dependency detected' \
		'list_del corruption. prev->next should be x' 'WARNING: arch/arm64/kvm/mmu.c:1 at x+0x1/0x2'; do
		rm -f "$FAKE/boots"
		scene program.1 "$SIGN" "> [    1.6] $splat" 'not ok # exit=254'
		run "$RUN" "${ONE[@]}"
		[[ $status == 1 && $(outcome program) == splat && $output == *"$splat"* ]] || { echo "$splat: $output"; false; }
	done
	# Nor has x86's sign one.
	scene program.1 "$TRACE" "> [    1.6] $splat" 'not ok # exit=254'
	rm -f "$FAKE/boots"
	run "$RUN" "${ONE[@]}"
	[[ $status == 1 && $(outcome program) == splat && $output == *"$splat"* ]] || { echo "$splat: $output"; false; }
	rm -f "$FAKE/boots"
	scene program.1 "$SIGN" '> [    1.6] Unable to handle kernel paging request at virtual address 0' '> [    1.7] Kernel panic - not syncing: Oops' exit
	run "$RUN" "${ONE[@]}"
	[[ $status == 5 && $output == *"Kernel panic - not syncing: Oops"* ]] || { echo "$output"; false; }
}

@test "erratum: names of tests are whole" {
	fake_trees
	printf '%s\n' '# kind: correctness' 'more 10 program' 'more-two 10 program' 'two-more 10 program' >"$PROJECT/ci/sets/fake"
	scene more "$SIGN" 'not ok # exit=1'
	scene two-more '> [    1.6] BUG: KASAN: x'
	scene two-more.2
	run "$RUN" --kernel stack --lane svm-tdp --test fake
	[[ $status == 1 && $(outcome two-more) == splat && $(outcome more-two) == passed ]] || { echo "$output"; false; }
	grep -c '^test ' "$FAKE/plan.2" | grep -qx 5
	refute grep -q 'more-two\|two-more' "$FAKE/plan.2"
}

@test "known: in the recorded words only, never a time-out, and the test's own words stay" {
	fake_trees
	printf '%s\n' 'svm-* any one fail /one userfault more/ the emulator' 'svm-* any two skip /no such thing/ not emulated' \
		>"$PROJECT/ci/expectations"
	scene one '| ==== Test Assertion Failure ====' '|   one userfault more: 5' 'not ok # exit=254'
	scene two 'ok # SKIP no such thing here'
	known() {
		run "$RUN" --kernel stack --lane svm-tdp --test fake
	}
	known
	[[ $status == 0 && $(outcome one) == known && $(outcome two) == skipped ]] || { echo "$output"; false; }
	grep -q 'one: known: exit=254: one userfault more: 5 (the emulator)' "$REPORT/summary.md"
	grep -q 'two: skipped: no such thing here (not emulated)' "$REPORT/summary.md"
	scene one '| ==== Test Assertion Failure ====' '|   4088 pages lost' 'not ok # exit=254'
	known
	[[ $status == 1 && $(outcome one) == failed && $output == *"4088 pages lost"* ]] || { echo "$output"; false; }
	scene one 'not ok # TIMEOUT 30'
	known
	[[ $status == 1 && $(outcome one) == timeout ]] || { echo "$output"; false; }
	rm "$FAKE/one"
	scene two 'ok # SKIP something else'
	known
	[[ $status == 1 && $(outcome one) == unexpected-pass && $(outcome two) == skipped && $output == *"something else"* ]] ||
		{ echo "$output"; false; }
	echo 'svm-* any one fail /(/ words' >"$PROJECT/ci/expectations"
	known
	fails_with 2 "ci/expectations: cannot read 'svm-* any one fail /(/ words'"
}

@test "a lane that was asked for and has nothing to run is wrong usage; one that wasn't is left out" {
	fake_trees
	sed -i '1a# arch: x86_64' "$PROJECT/ci/sets/fake"
	run "$RUN" --kernel stack --lane svm-tdp,arm64-el2 --test fake
	fails_with 2 "arm64-el2: nothing of fake is for arm64"
	[[ ! -e $FAKE/built ]]
	run "$RUN" --kernel stack --test fake
	[[ $status == 0 ]] || { echo "$output"; false; }
	[[ $(cut -f1 "$REPORT/results.tsv" | sort -u | paste -sd' ') == "svm-shadow svm-tdp svm-tdp-shadow" ]]
	refute grep -q arm64 "$FAKE/built"
	# What is not started has not passed.
	echo 'svm-tdp* any t* omit it takes too long' >"$PROJECT/ci/expectations"
	rm "$FAKE/boots"
	run "$RUN" --kernel stack --lane svm-tdp --test two,two-more
	fails_with 2 "svm-tdp: ci/expectations has nothing of two,two-more started: it takes too long"
	[[ ! -e $FAKE/boots ]]
	run "$RUN" --kernel stack --lane svm-tdp --test fake
	[[ $status == 0 && $(outcome one) == passed && $(outcome two) == skipped ]] || { echo "$output"; false; }
}

@test "a daemon that a compiler begins and leaves behind keeps no report" {
	mkdir "$BATS_TEST_TMPDIR/compilers"
	cat >"$BATS_TEST_TMPDIR/compilers/gcc" <<-EOF
		#!/bin/sh
		setsid sleep 600 >/dev/null 2>&1 3>&- &
		echo \$! >>"$BATS_TEST_TMPDIR/daemons"
		exec $(command -v gcc) "\$@"
	EOF
	chmod +x "$BATS_TEST_TMPDIR/compilers/gcc"
	# Of its own, as others copy from the one of all tests.
	rm "$KVM_STACK_BUILD/bin"
	PATH=$BATS_TEST_TMPDIR/compilers:$PATH run "$RUN" "${ONE[@]}"
	code=0
	flock -n "$REPORT/.lock" true || code=$?
	xargs kill <"$BATS_TEST_TMPDIR/daemons"
	[[ $status == 0 && $code == 0 ]] || { echo "$output"; false; }
}

@test "the report names what was tested: the series, or what else is in build/linux" {
	fake_trees
	stack() {
		run "$RUN" --kernel stack --lane svm-tdp --test fake "$@"
	}
	tree() {
		git -C "$LINUX" rev-parse --short=8 "HEAD^{tree}"
	}
	stack
	[[ $status == 0 ]] || { echo "$output"; false; }
	grep -q '^....-..-.., stack ' "$REPORT/summary.md"
	# At the base, with nothing on top, the series is applied.
	git -C "$LINUX" reset -q --hard base
	stack
	[[ $status == 0 && $output == *"applied: 3 patches"* ]] || { echo "$output"; false; }
	# Half of it, on a branch of the user's own, stays half of it.
	git -C "$LINUX" checkout -q -b mine HEAD~1
	stack
	[[ $status == 0 && $(git -C "$LINUX" rev-list --count base..mine) == 2 ]] || { echo "$output"; false; }
	grep -q "build/linux $(tree), 2 of 3 patches" "$REPORT/summary.md"
	git -C "$LINUX" checkout -q stack
	# Something on top, committed or not.
	echo more >>"$LINUX/virt/kvm/kvm_main.c"
	stack
	[[ $status == 0 ]] || { echo "$output"; false; }
	grep -qE 'build/linux [0-9a-f]{8}, not series' "$REPORT/summary.md"
	run "$RUN" --kernel stack --series --lane svm-tdp --test fake
	[[ $status == 3 ]] || { echo "$output"; false; }
	commit_all "$LINUX" "KVM: More"
	stack
	[[ $status == 0 ]] || { echo "$output"; false; }
	grep -q "build/linux $(tree), not series" "$REPORT/summary.md"
	jq -e '.tested | test("^build/linux .*, not series$")' "$REPORT/results.json"
	run "$RUN" --kernel stack --series --lane svm-tdp --test fake
	[[ $status == 3 ]] || { echo "$output"; false; }
	# The sources are named once, for all lanes.
	[[ $(sort -u "$FAKE/built" | tail -n 1) == *"--tree "[0-9a-f]* ]]
	# "git pull" with another patch: what is in build/linux is not series any more.
	git -C "$LINUX" reset -q --hard HEAD~1
	sed -i 's/^+changed 23/+different 23/' "$PROJECT"/patches/0003-*
	stack
	[[ $status == 0 ]] || { echo "$output"; false; }
	grep -q "build/linux $(tree), not series" "$REPORT/summary.md"
	grep -q -- '--series' "$PROJECT/Makefile"
}

@test "which selftests are built is said, where build/linux has others" {
	fake_trees
	mkdir -p "$LINUX/tools/testing/selftests/kvm/x86" "$PROJECT/selftests/x86"
	# As in a clone: git has its own idea of what a path is relative to.
	git init -q "$PROJECT"
	echo "int x;" | tee "$PROJECT/selftests/x86/new_test.c" >"$LINUX/tools/testing/selftests/kvm/x86/new_test.c"
	commit_all "$LINUX" "KVM: selftests: New"
	run "$RUN" --kernel stack --lane svm-tdp --test one
	[[ $status == 0 && $output != *"are those of selftests/"* ]] || { echo "$output"; false; }
	echo "int y;" >"$LINUX/tools/testing/selftests/kvm/x86/new_test.c"
	run "$RUN" --kernel stack --lane svm-tdp --test one
	[[ $status == 0 && $output == *"are those of selftests/, of which build/linux has others: x86/new_test.c (scripts/stack export"* ]] ||
		{ echo "$output"; false; }
}

@test "two at once: who applies the series for a run waits, and says so" {
	fake_trees
	exec 9>>"$KVM_STACK_BUILD/stack.lock"
	flock 9
	echo "export, process 1" >"$KVM_STACK_BUILD/stack.lock"
	"$RUN" --series --kernel stack --lane svm-tdp --test one >"$BATS_TEST_TMPDIR/second" 2>&1 9>&- 3>&- &
	for _ in $(seq 300); do
		grep -q "waiting for another one to end" "$BATS_TEST_TMPDIR/second" && break
		sleep 0.1
	done
	waits=$(<"$BATS_TEST_TMPDIR/second")
	exec 9>&-
	wait $!
	[[ $waits == *"waiting for another one to end: scripts/stack export, process 1" ]] || { echo "$waits"; false; }
}

@test "mutants: an earlier report proves nothing" {
	fake_trees
	cat >"$PROJECT/ci/mutations/mine.patch" <<-'EOF'
		Lane: svm-tdp
		Test: one
		Expect: the sentence
		---
	EOF
	scene one '| ==== Test Assertion Failure ====' '|   the sentence' 'not ok # exit=254'
	run "$PROJECT/ci/mutants" mine
	[[ $status == 0 && $output == *"ok - svm-tdp: one catches mine"* ]] || { echo "$output"; false; }
	printf '#!/bin/sh\necho "they do not build" >&2\nexit 1\n' >"$PROJECT/ci/selftests"
	run "$PROJECT/ci/mutants" mine
	[[ $status == 1 && $output == *"not ok - svm-tdp: one does not catch mine"* ]] || { echo "$output"; false; }
}

@test "blanks arrive as typed, in files and arguments" {
	mkdir "$BATS_TEST_TMPDIR/my dir"
	cp "$IMAGE" "$BATS_TEST_TMPDIR/my dir/bz image"
	cp "$PROGRAM" "$BATS_TEST_TMPDIR/my dir/my program"
	run "$RUN" --lane svm-tdp --kernel "$BATS_TEST_TMPDIR/my dir/bz image" --program "$BATS_TEST_TMPDIR/my dir/my program" \
		--report "$REPORT/my, report" -- 'a  b' '' 'c\d' $'e\tf\ng'
	[[ $status == 0 ]] || { echo "$output"; false; }
	grep -qx 'test program 600 /tests/my\\040program a\\040\\040b \\000 c\\134d e\\011f\\012g' "$FAKE/plan.1"
	[[ -s "$REPORT/my, report/summary.md" ]]
	# init takes it apart again.
	awk '/^static void unescape/,/^}/' "$PROJECT/ci/guest/init.c" >"$BATS_TEST_TMPDIR/unescape.c"
	printf '#include <stdio.h>\n#include "unescape.c"\nint main(int c, char **v) { while (*++v) { unescape(*v); printf("[%%s]", *v); } }\n' \
		>"$BATS_TEST_TMPDIR/words.c"
	gcc -o "$BATS_TEST_TMPDIR/words" "$BATS_TEST_TMPDIR/words.c"
	[[ $("$BATS_TEST_TMPDIR/words" 'a\040\040b' '\000' 'c\134d' 'e\011f\012g') == $'[a  b][][c\\d][e\tf\ng]' ]]
}

@test "a relative KVM_STACK_BUILD, and one with a comma and a blank" {
	cd "$BATS_TEST_TMPDIR"
	mv build "a, b"
	KVM_STACK_BUILD="a, b" KVM_STACK_CACHE=c run "$RUN" "${ONE[@]}"
	[[ $status == 0 ]] || { echo "$output"; false; }
}

@test "nothing of the user's environment gets into the kernel's command line" {
	CMDLINE=frobnicate APPEND=frobnicate run "$RUN" "${ONE[@]}"
	[[ $status == 0 ]] || { echo "$output"; false; }
	refute grep -q frobnicate "$FAKE/cmdline"
}

@test "whatever the user's environment is, runs end and report the same" {
	fake_trees
	scene one 'not ok # exit=1'
	# what: what a run says and leaves, less times and what is reused.
	what() {
		"$@" --kernel stack --lane svm-tdp --test fake >/dev/null 2>&1 || echo "exit $?"
		cut -f1-5,7- "$REPORT/results.tsv"
		sed 's/time="[^"]*"//' "$REPORT/junit.xml"
		cat "$FAKE/cmdline"
	}
	plain=$(what "$RUN")
	rm -r "$REPORT"
	[[ $plain == "exit 1"* && $(what hostile "$RUN") == "$plain" ]]
}

@test "--report: nothing is deleted that is no report" {
	unset KVM_STACK_REPORT
	mkdir "$BATS_TEST_TMPDIR/precious"
	touch "$BATS_TEST_TMPDIR/precious/thesis.txt"
	run "$RUN" "${ONE[@]}" --report "$BATS_TEST_TMPDIR/precious"
	fails_with 2 "is not empty, and holds no report"
	[[ ! -e $FAKE/boots ]]
	REPORT=$BATS_TEST_TMPDIR/precious run "$RUN" "${ONE[@]}"
	[[ $status == 0 && -s $KVM_STACK_BUILD/report/summary.md ]] || { echo "$output"; false; }
	touch "$KVM_STACK_BUILD/report/notes.txt"
	run "$RUN" "${ONE[@]}"
	[[ $status == 0 && -e $KVM_STACK_BUILD/report/notes.txt && -e $BATS_TEST_TMPDIR/precious/thesis.txt ]] || { echo "$output"; false; }
	run "$RUN" "${ONE[@]}" --report
	fails_with 2 "--report wants a directory"
}

@test "KVM_CI_PATIENCE: how many times the seconds of its set a test may take" {
	fake_trees
	run "$RUN" --kernel stack --lane svm-tdp --test one
	grep -qx 'test one 30 /tests/program' "$FAKE/plan.1"
	KVM_CI_PATIENCE=5 run "$RUN" --kernel stack --lane svm-tdp --test one
	grep -qx 'test one 50 /tests/program' "$FAKE/plan.2"
	KVM_CI_PATIENCE=much run "$RUN" --kernel stack --lane svm-tdp --test one
	fails_with 2 "KVM_CI_PATIENCE takes a number"
}
