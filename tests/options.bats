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

@test "a lane that has another one for a guest takes along what boots that with KVM" {
	fake_trees
	printf '%s\n' like=svm-tdp vmm=qemu-system-x86_64 guest=inner tests=a >"$PROJECT/ci/lanes/outer"
	printf '%s\n' like=svm-tdp smp=3 append=of-the-inner tests=b >"$PROJECT/ci/lanes/inner"
	echo 'one 10 program' >"$PROJECT/ci/sets/a"
	echo 'two 10 program' >"$PROJECT/ci/sets/b"
	run "$RUN" --kernel stack --lane outer
	[[ $status == 0 ]] || { echo "$output"; false; }
	grep -q '^test one ' "$FAKE/plan.1"
	grep -q -- ' -accel kvm -cpu host -smp 3 .* -kernel /guest/kernel .*of-the-inner' "$FAKE/guest_command"
}

@test "patterns of lanes and of tests" {
	fake_trees
	dry() {
		"$RUN" --kernel stack --dry-run "$@"
	}
	[[ $(dry --lane 'svm-*-nx' --test one | cut -d: -f1 | paste -sd' ') == "svm-shadow-nx svm-tdp-nosplit-nx svm-tdp-nx svm-tdp-shadow-nx" ]]
	[[ $(dry --lane svm-tdp --test 'two*') == *": two two-more" ]]
	[[ $(dry --lane svm-tdp --test 'two*,one') == *": two two-more one" ]]
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
	printf '#!/bin/sh\nexit 1\n' >"$PROJECT/ci/kernel"
	run "$RUN" --bisect --kernel stack --lane svm-tdp --test one
	[[ $status == 125 ]] || { echo "$output"; false; }
}

@test "progress says how much of it there is" {
	fake_trees
	run "$RUN" --kernel stack --lane svm-tdp --test fake
	[[ $status == 0 && $output == *"svm-tdp stack: ok 2/3 two"* ]] || { echo "$output"; false; }
}
