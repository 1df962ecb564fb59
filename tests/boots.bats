#!/usr/bin/env bats
# ci/run from its first boot to its report: the order of boots, what is measured again, what a run ends
# with that this machine has no room for. With the emulator of tests/fake.

load common

setup() {
	fake_bed
	fake_trees
	export KVM_STACK_REPORT=$REPORT
	printf '%s\n' '# kind: perf' 'quick 10 program' 'slow 10 program' >"$PROJECT/ci/sets/benchmarks"
	RUN="$RUN --lane svm-tdp"
}

# bench TEST BASE STACK [FROM]: what the benchmark measures in eight boots, with a little noise.
bench() {
	local n from=${4-1} value

	for ((n = from; n < from + 8; n++)); do
		value=$2
		case $(((n - 1) % 8)) in
		1 | 2 | 4 | 7) value=$3 ;;
		esac
		scene "$1.$n" "| some_us=$((value + n % 4))"
	done
}

rounds() {
	awk -F'\t' '{ printf "%s%s", sep, $2 ":" $3; sep = " " } END { print "" }' "$REPORT/vms.tsv"
}

# run_again ARG...: with boots counted from 1.
run_again() {
	rm -f "$FAKE/boots"
	run $RUN "$@"
}

@test "benchmarks: four boots a kernel, in turn; once for one kernel" {
	bench quick 100 100
	run $RUN --test quick
	[[ $status == 0 ]] || { echo "$output"; false; }
	[[ $(rounds) == "base:perf1 stack:perf2 stack:perf3 base:perf4 stack:perf5 base:perf6 base:perf7 stack:perf8" ]]
	grep -q 'some_us .* 4/4 .*~$' "$REPORT/ab.txt"
	grep -qx '# Verdict: passed' "$REPORT/summary.md"
	run_again --kernel stack --test quick
	[[ $status == 0 && $(rounds) == "stack:perf1" && ! -e $REPORT/ab.txt ]] || { echo "$output"; false; }
	run_again --boots 1 --test quick
	[[ $status == 0 && $(rounds) == "base:perf1 stack:perf2" ]] || { echo "$output"; false; }
	run $RUN --boots none
	fails_with 2 "--boots takes a number"
}

@test "benchmarks: what is slower is measured again, told first, and exit 1" {
	bench quick 100 100
	bench slow 100 150
	bench slow 100 140 9
	run $RUN --test benchmarks
	[[ $status == 1 ]] || { echo "$output"; false; }
	[[ $(rounds) == *"stack:perf8 base:confirm1 stack:confirm2 "*"stack:confirm8" ]]
	[[ $(awk -F'\t' '$3 ~ /confirm/ { print $4 }' "$REPORT/results.tsv" | sort -u) == slow ]]
	head -n 1 "$REPORT/summary.md" | grep -qx '# Verdict: failed, benchmarks slower: 1 (exit code 1)'
	head -n 8 "$REPORT/summary.md" | grep -qx -- '- svm-tdp, stack, slow: some_us: 1.39 times slower: a regression'
	[[ $(xmllint --xpath 'string(//failure/@message)' "$REPORT/junit.xml") == "new regression: x1.39" ]]
	# Recorded, it is told, and no fault; nobody asks for it again.
	echo 'svm-* slow some_us 1.6 for a reason' >>"$PROJECT/ci/regressions"
	run_again --test slow
	[[ $status == 0 && $(rounds) == *"stack:perf8" && $output == *"times slower: recorded: for a reason"* ]] || { echo "$output"; false; }
}

@test "a record of a regression that cannot be read ends a run before it begins" {
	echo 'svm-tdp slow some_us x1.2 a reason' >>"$PROJECT/ci/regressions"
	run $RUN --test slow
	fails_with 2 "ci/regressions: cannot read 'svm-tdp slow some_us x1.2 a reason'"
	[[ ! -e $FAKE/boots ]]
}

@test "benchmarks: chance is no regression" {
	bench slow 100 150
	bench slow 100 100 9
	run $RUN --test slow
	[[ $status == 0 && $(rounds) == *"stack:confirm8" ]] || { echo "$output"; false; }
	grep -q 'slow .*some_us.*not again$' "$REPORT/ab.txt"
	grep -qx '# Verdict: passed' "$REPORT/summary.md"
}

@test "benchmarks: a boot whose test failed is no sample, and too few boots are no sample of anything" {
	bench slow 100 150
	scene slow.1 '| some_us=9999' 'not ok # exit=1'
	run $RUN --test slow
	[[ $status == 0 && $(rounds) == *"stack:perf8" ]] || { echo "$output"; false; }
	grep -q 'slow .*some_us.* 3/4 .*too few boots$' "$REPORT/ab.txt"
}

@test "no value that a benchmark prints, and no comparison that fails, costs the report" {
	scene quick '| rc==0' '| us=x' '| a=1 some_us=1e9999'
	run $RUN --boots 1 --test quick
	[[ $status == 0 && -s $REPORT/junit.xml && -s $REPORT/results.json ]] || { echo "$output"; false; }
	printf '#!/bin/sh\necho "compare: no" >&2\nexit 2\n' >"$PROJECT/ci/compare"
	run_again --boots 1 --test quick
	[[ $status == 3 && -s $REPORT/junit.xml && -s $REPORT/summary.md ]] || { echo "$output"; false; }
}

@test "the base's results are kept whole or not at all, and looked at before use" {
	boots() {
		run_again --test one
		[[ $status == 0 && $(cat "$FAKE/boots") == "$1" ]] || { echo "$output"; false; }
	}
	boots 2
	boots 1
	# As a run may leave them that is killed half way.
	rm "$KVM_STACK_CACHE"/base-results/*/console
	boots 2
	truncate -s 10 "$KVM_STACK_CACHE"/base-results/*/verdict
	boots 2
	boots 1
	# What cannot be kept is not there.
	rm -rf "$KVM_STACK_CACHE/base-results"
	mkdir "$BATS_TEST_TMPDIR/bin"
	printf '#!/bin/bash\ncase ${!#} in */base-results/*) /bin/cp "$1" "${!#}"; exit 1 ;; *) exec /bin/cp "$@" ;; esac\n' >"$BATS_TEST_TMPDIR/bin/cp"
	chmod +x "$BATS_TEST_TMPDIR/bin/cp"
	PATH=$BATS_TEST_TMPDIR/bin:$PATH boots 2
	[[ -z $(ls "$KVM_STACK_CACHE/base-results") ]]
}

# tiny DIR [SIZE]: a file system of 200 KiB there.
tiny() {
	mkdir -p "$1"
	mount -t tmpfs -o size="${2-200k}" none "$1" 2>/dev/null || skip "cannot mount a file system"
	TINY=$1
}

teardown() {
	[[ ! ${TINY-} ]] || umount "$TINY"
}

@test "disk full: exit 3 and which, before a run and in it" {
	tiny "$KVM_STACK_CACHE"
	run $RUN --test one
	fails_with 3 "the cache needs 500 MiB under $KVM_STACK_CACHE, "
	fails_with 3 "make room, or set KVM_STACK_CACHE"
	umount "$TINY"
	TINY=
	tiny "$REPORT"
	scene one "> $(head -c 300000 /dev/zero | tr '\0' x)"
	run $RUN --test one
	fails_with 3 "disk full: nothing can be written to $REPORT; make room"
	umount "$TINY"
	TINY=
	# While the VM runs: there is room for what it boots, not for all that it says.
	tiny "$KVM_STACK_BUILD/run" 3m
	scene one "> $(head -c 3000000 /dev/zero | tr '\0' x)"
	run $RUN --test one
	fails_with 3 "disk full: nothing can be written to $KVM_STACK_BUILD; make room"
}

@test "no memory for a VM: exit 3, and what the emulator said" {
	mkdir "$BATS_TEST_TMPDIR/bin"
	cat >"$BATS_TEST_TMPDIR/bin/qemu-system-x86_64" <<-'EOT'
		#!/bin/sh
		case $* in *--version*) echo "QEMU emulator version 7.2.22 (fake)"; exit ;; esac
		: >cpu_reset
		echo "qemu: cannot set up guest memory 'pc.ram': Cannot allocate memory" >&2
		exit 1
	EOT
	chmod +x "$BATS_TEST_TMPDIR/bin/qemu-system-x86_64"
	PATH=$BATS_TEST_TMPDIR/bin:$PATH run $RUN --kernel stack --test one
	fails_with 3 "this machine has no room for a VM of "
	fails_with 3 "qemu: cannot set up guest memory 'pc.ram': Cannot allocate memory"
	# One of several VMs that has none ends all of it.
	PATH=$BATS_TEST_TMPDIR/bin:$PATH run "$PROJECT/ci/run" --lane svm-tdp,svm-shadow --kernel stack --test one -j 2
	fails_with 3 "this machine has no room for a VM of "
}

@test "-j: the VMs of all lanes at once, and the report is that of one after the other" {
	local tables=()

	scene one "| some_us=1"
	scene two "| words" "not ok # exit=254"
	run "$PROJECT/ci/run" --lane svm-tdp,svm-shadow --test fake
	[[ $status == 1 ]] || { echo "$output"; false; }
	tables=("$REPORT"/{results,values,vms}.tsv)
	cat "${tables[@]}" >"$BATS_TEST_TMPDIR/in-turn"
	rm -r "$KVM_STACK_CACHE/base-results"
	run "$PROJECT/ci/run" --lane svm-tdp,svm-shadow --test fake -j 3
	[[ $status == 1 ]] || { echo "$output"; false; }
	cat "${tables[@]}" | diff "$BATS_TEST_TMPDIR/in-turn" -
	[[ -s $REPORT/vm/svm-shadow.stack.1/tests/two.log && $(grep -c . "$BATS_TEST_TMPDIR/in-turn") == 20 ]]
	run "$PROJECT/ci/run" -j many
	fails_with 2 "-j takes a number from 1, not 'many'"
}

# order: of what the last run said of its VMs: b for each that boots, l for each that is lost.
order() {
	sed -n 's/.*: booting.*/b/p; s/.*: VM lost.*/l/p' <<<"$output" | tr -d '\n'
}

@test "-j: as many as it says, and as there is memory for; what one of them ends with counts" {
	export KVM_CI_SILENCE=2
	scene one.1 hang
	scene one.2 hang
	run_again --lane svm-tdp,svm-shadow --kernel stack --test one -j 2
	[[ $status == 4 && $(order) == bbll ]] || { echo "$output"; false; }
	sed -i 's/^memory=.*/memory=100T/' "$PROJECT/ci/lanes/svm-tdp"
	run_again --lane svm-tdp,svm-shadow --kernel stack --test one -j 2
	[[ $status == 4 && $(order) == blbl ]] || { echo "$output"; false; }
}

@test "no room to build a kernel: exit 3, and not the patch's fault" {
	cp "$REAL/ci/kernel" "$PROJECT/ci/"
	mkdir -p "$LINUX"/arch/x86 "$BATS_TEST_TMPDIR/bin"
	touch "$LINUX"/arch/x86/Kconfig "$LINUX"/tools/Makefile
	commit_all "$LINUX" "KVM: More"
	printf '#!/bin/sh\necho "$SAYS" >&2\nexit 2\n' >"$BATS_TEST_TMPDIR/bin/make"
	chmod +x "$BATS_TEST_TMPDIR/bin/make"
	PATH=$BATS_TEST_TMPDIR/bin:$PATH
	for says in "x.c:1:1: fatal error: error writing to x.s: No space left on device" \
		"cc1: out of memory allocating 65536 bytes: Cannot allocate memory" \
		"gcc: fatal error: Killed signal terminated program cc1"; do
		SAYS=$says run "$PROJECT/ci/kernel" --tree stack --config lane
		fails_with 3 "this machine has no room to build it: $says"
	done
	SAYS="x.c:1:1: error: no" run "$PROJECT/ci/kernel" --tree stack --config lane
	fails_with 1 "x.c:1:1: error: no"
}

@test "no network, no key: exit 3, and which" {
	mkdir "$BATS_TEST_TMPDIR/bin"
	cat >"$BATS_TEST_TMPDIR/bin/apt-get" <<-'EOT'
		#!/bin/sh
		case $* in *update*) echo "W: Failed to fetch http://deb: Could not resolve"; exit ;; esac
		echo "E: Unable to locate package"
		exit 100
	EOT
	chmod +x "$BATS_TEST_TMPDIR/bin/apt-get"
	PATH=$BATS_TEST_TMPDIR/bin:$PATH
	run "$PROJECT/ci/run" --lane arm64-nv --test kunit
	fails_with 3 "W: Failed to fetch http://deb: Could not resolve"
	sed -i 's|^keyring=.*|keyring=/no/such/keyring|' "$PROJECT/BASE"
	run "$PROJECT/ci/run" --lane arm64-nv --test kunit
	fails_with 3 "no keys of Debian's in /no/such/keyring: install debian-archive-keyring"
}
