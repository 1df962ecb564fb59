#!/usr/bin/env bats
# ci/run with real VMs: what it makes of programs, tests and kernels that behave badly, and the
# examples of the README. Uses the kernels of the real build directory.

load common

setup() {
	[[ -d $REAL_BUILD/linux/.git ]] || skip "no base tree: scripts/stack base"
	whole_project
	RUN=$PROJECT/ci/run
	REPORT=$BATS_TEST_TMPDIR/report
	# One small set, so that no test of the stack is run here.
	LANE="--lane svm-tdp --report $REPORT"
}

# program SOURCE: a static program in a file of its own.
program() {
	PROGRAM=$BATS_TEST_TMPDIR/program
	gcc -x c -static -o "$PROGRAM" - <<<"$1"
}

# set_of_tests LINE...: a set "odd" of these tests.
set_of_tests() {
	{ echo "# kind: correctness"; printf '%s\n' "$@"; } >"$PROJECT/ci/sets/odd"
}

@test "base against stack: the exit code is the stack's, a base that fails is only told" {
	# For the base, a kernel that differs from the stack's in one file: it takes seconds to build.
	mv "$PROJECT/ci/kernel" "$PROJECT/ci/real-kernel"
	printf '#!/bin/bash\nexec "%s" "${@/#base/stack+get-hides-a-bit}"\n' "$PROJECT/ci/real-kernel" >"$PROJECT/ci/kernel"
	chmod +x "$PROJECT/ci/kernel"
	program '#include <stdio.h>
		#include <string.h>
		#include <sys/utsname.h>
		int main(int c, char **v) { struct utsname u; uname(&u); puts(u.release); return !strcmp(u.release, v[1]); }'
	base=$(cat "$("$PROJECT/ci/kernel" --tree base --config lane)/release")
	stack=$(cat "$("$PROJECT/ci/kernel" --tree stack --config lane)/release")
	run "$RUN" $LANE --program "$PROGRAM" -- "$base"
	[[ $status == 0 && $(outcome program) == "failed passed" ]] || { echo "$output"; false; }
	[[ ${lines[-1]} == "1 passed, 0 failed, 0 skipped (kernel: stack;"* ]]
	run "$RUN" $LANE --program "$PROGRAM" -- "$stack"
	[[ $status == 1 && $(outcome program) == "passed failed" ]] || { echo "$output"; false; }
	[[ ${lines[-1]} == "0 passed, 1 failed, 0 skipped (kernel: stack;"* ]]
}

@test "--program: arguments reach it, its output and key=value lines come back" {
	program '#include <stdio.h>
		int main(int c, char **v) { printf("args=%d\n", c - 1); printf("second is %s\n", v[2]); return 0; }'
	run "$RUN" --kernel stack $LANE --program "$PROGRAM" -- one two
	[[ $status == 0 ]] || { echo "$output"; false; }
	[[ $(outcome program) == passed ]]
	grep -q "second is two" "$REPORT"/vm/*/tests/program.log
	grep -qP '\tprogram\targs\t2$' "$REPORT/values.tsv"
	jq -e '.results[0].outcome == "passed" and .vms[0].accelerator == "tcg" and (.vms[0].emulator | test("QEMU"))' "$REPORT/results.json"
	grep -q '<testcase classname="svm-tdp.stack" name="program"' "$REPORT/junit.xml"
	grep -q '^# Verdict: passed' "$REPORT/summary.md"
}

@test "failed, killed, skipped without a record, timed out: kept apart, exit 1" {
	program '#include <stdio.h>
		#include <stdlib.h>
		#include <string.h>
		#include <unistd.h>
		int main(int c, char **v)
		{
			if (!strcmp(v[1], "fail")) return 3;
			if (!strcmp(v[1], "abort")) abort();
			if (!strcmp(v[1], "skip")) { puts("1..0 # SKIP no such thing"); return 4; }
			for (;;) pause();
		}'
	# The selftests directory of the build must hold it for a test list to name it.
	cp "$PROGRAM" "$BATS_TEST_TMPDIR/odd"
	set_of_tests "fails 10 odd fail" "aborts 10 odd abort" "skips 10 odd skip" "hangs 3 odd hang"
	sed -i 's|^make_initramfs() {|&\n\tset -- "${@/#odd/'"$BATS_TEST_TMPDIR"'/odd}"|' "$PROJECT/ci/lib/vm.sh"
	run "$RUN" --kernel stack $LANE --test odd
	[[ $status == 1 ]] || { echo "$output"; false; }
	[[ $(outcome fails) == failed && $(outcome aborts) == failed ]]
	[[ $(outcome skips) == skipped && $(outcome hangs) == timeout ]]
	grep -q "sysrq: Show Blocked State" "$REPORT"/vm/*/console
	[[ $output == *"skipped without a record in ci/expectations: no such thing"* ]]
	# The same, recorded: nothing is left to complain about but the abort.
	printf '%s\n' "svm-tdp any skips skip /no such thing/ there is none" "svm-tdp any fails fail /exit=3/ it always did" \
		"svm-tdp any hangs omit it hangs" >>"$PROJECT/ci/expectations"
	run "$RUN" --kernel stack $LANE --test odd
	[[ $status == 1 && $(outcome fails) == known && $(outcome hangs) == skipped && $(outcome aborts) == failed ]]
}

@test "a splat is a failure although the test passed" {
	program '#include <fcntl.h>
		#include <unistd.h>
		int main(void) { return write(open("/dev/kmsg", O_WRONLY), "WARNING: CPU: 0 PID: 1 at x.c:1", 31) != 31; }'
	run "$RUN" --kernel stack $LANE --program "$PROGRAM"
	[[ $status == 1 && $(outcome program) == splat ]] || { echo "$output"; false; }
}

@test "a splat outside of any test is a failure, too" {
	echo 'set /dev/kmsg WARNING: CPU: 0 PID: 1 at x.c:1' >>"$PROJECT/ci/guest/plan"
	program 'int main(void) { return 0; }'
	run "$RUN" --kernel stack $LANE --program "$PROGRAM"
	[[ $status == 1 && $(outcome program) == passed && $(outcome boot) == splat ]] || { echo "$output"; false; }
}

@test "a kernel that panics: exit 5, and what it said" {
	program '#include <fcntl.h>
		#include <unistd.h>
		int main(void) { return write(open("/proc/sysrq-trigger", O_WRONLY), "c", 1) != 1; }'
	run "$RUN" --kernel stack $LANE --program "$PROGRAM"
	[[ $status == 5 && $(outcome program) == lost && $output == *"Kernel panic"* ]] || { echo "$output"; false; }
}

@test "a VM that goes silent is killed: exit 4" {
	# init beats every 5 s, unless it is stopped.
	program '#include <sys/ptrace.h>
		#include <unistd.h>
		int main(void) { return ptrace(PTRACE_ATTACH, 1, 0, 0) || sleep(60); }'
	KVM_CI_SILENCE=15 run "$RUN" --kernel stack $LANE --program "$PROGRAM"
	[[ $status == 4 && $(outcome program) == lost && $output == *"VM lost (silent)"* ]] || { echo "$output"; false; }
	# QEMU's monitor says what the six CPUs were at.
	[[ $(grep -c '^CPU#' "$REPORT"/vm/*/registers) == 6 && $(grep -cE '^[ER]IP=' "$REPORT"/vm/*/registers) == 6 ]]
	run pgrep -f "$BATS_TEST_TMPDIR"
	[[ -z $output ]]
}

@test "a kernel without KVM: exit 6" {
	sed -i 's/^cpu=.*/cpu=max,-svm/' "$PROJECT/ci/lanes/svm-tdp"
	run "$RUN" --kernel stack $LANE --test smoke
	[[ $status == 6 && $output == *"no usable KVM"* ]] || { echo "$output"; false; }
}

@test "an image that does not boot: exit 5" {
	head -c 65536 /dev/zero >"$BATS_TEST_TMPDIR/bzImage"
	printf HdrS | dd of="$BATS_TEST_TMPDIR/bzImage" bs=1 seek=514 conv=notrunc status=none
	KVM_CI_SILENCE=5 run "$RUN" --kernel "$BATS_TEST_TMPDIR/bzImage" $LANE --test smoke
	[[ $status == 4 || $status == 5 ]] || { echo "$output"; false; }
	[[ $output == *"booting it again, once"* ]]
	[[ $output == *"never came up"* || $output == *"the emulator did not start"* ]]
	grep -q "booted again" "$REPORT/summary.md"
}

@test "configs: a symbol that a tree lacks is an error, unless it is a new one" {
	config() {
		printf '%s\n' '# arch: x86_64' '# start: tinyconfig' '# target: outputmakefile' '# new: NO_SUCH KVM' "$@" \
			>"$PROJECT/ci/configs/odd.config"
		run "$PROJECT/ci/kernel" --tree stack --config odd
	}
	export KVM_STACK_CACHE=$BATS_TEST_TMPDIR/cache
	config CONFIG_NO_SUCH=y CONFIG_PRINTK=y
	[[ $status == 0 ]] || { echo "$output"; false; }
	config CONFIG_NO_SUCH=y CONFIG_NO_SUCH_EITHER=y
	fails_with 1 "not honoured by this tree: CONFIG_NO_SUCH_EITHER=y"
	# A symbol that the tree has is no exception, e.g. if what it depends on is off.
	config CONFIG_NO_SUCH=y CONFIG_KVM=y
	fails_with 1 "not honoured by this tree: CONFIG_KVM=y"
	rm -r "$REAL_BUILD"/obj/odd*
}

@test "--kernel IMAGE: a bzImage of the user's own" {
	image=$("$PROJECT/ci/kernel" --tree stack --config lane)/bzImage
	cp "$image" "$BATS_TEST_TMPDIR/my-bzImage"
	run "$RUN" --kernel "$BATS_TEST_TMPDIR/my-bzImage" $LANE --test smoke
	[[ $status == 0 && $(outcome smoke-mirror) == passed ]] || { echo "$output"; false; }
	grep -q $'\timage-my-bzImage\t' "$REPORT/results.tsv"
}

@test "--shell: a prompt in the lane" {
	out=$BATS_TEST_TMPDIR/out
	: >"$out"
	# What is typed before there is a prompt is lost.
	typed() {
		local i

		for ((i = 0; i < 240; i++)); do
			! grep -q '^lane# ' "$out" || break
			sleep 1
		done
		printf 'ls /tests\necho release=$(uname -r)\nls -l /dev/kvm\npoweroff -f\n'
		sleep 60
	}
	timeout 300 "$RUN" --shell --lane svm-tdp < <(typed) >"$out" 2>&1 || { cat "$out"; false; }
	grep -q 'release=7\.' "$out" || { cat "$out"; false; }
	grep -q dirty_log_mirror_test "$out" || { cat "$out"; false; }
	grep -q ' /dev/kvm' "$out" || { cat "$out"; false; }
}

@test "README: a lane" {
	run walk lane
	[[ $status == 0 && $output == *"svm-small stack: ok 1/2 smoke-mirror"* ]] || { echo "$output"; false; }
}

@test "README: a test" {
	run walk test
	[[ $status == 0 && $output == *"svm-shadow stack: ok 1/1 my-test"* ]] || { echo "$output"; false; }
}

@test "README: a mutation" {
	run walk mutation
	[[ $status == 0 && $output == *"ok - svm-tdp: smoke-mirror catches my-mutation"* ]] || { echo "$output"; false; }
}
