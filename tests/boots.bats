#!/usr/bin/env bats
# ci/run from its first boot to its report, with an emulator, kernels and programs that are not real:
# the order of boots, what is measured again, what a run without room ends with; no VM.

load common

setup() {
	copy_project
	export KVM_STACK_BUILD=$BATS_TEST_TMPDIR/build KVM_STACK_CACHE=$BATS_TEST_TMPDIR/cache
	export KVM_STACK_REPORT=$BATS_TEST_TMPDIR/report REPORT=$BATS_TEST_TMPDIR/report FAKE=$BATS_TEST_TMPDIR/fake
	mkdir -p "$FAKE/bin"
	# Kernels and programs: empty files where they are looked for.
	mini_kernel "$KVM_STACK_BUILD/linux"
	git init -q "$KVM_STACK_BUILD/linux"
	commit_all "$KVM_STACK_BUILD/linux" base
	git -C "$KVM_STACK_BUILD/linux" tag base
	mkdir -p "$FAKE"/{base,stack,tests}
	echo base >"$FAKE/base/bzImage"
	echo stack >"$FAKE/stack/bzImage"
	grep -hv '^#' "$PROJECT"/ci/sets/* | cut -d' ' -f3 | sort -u | while read -r program; do
		install -D /dev/null "$FAKE/tests/$program"
	done
	program "$PROJECT/ci/kernel" 'case $2 in base) echo "$FAKE/base" ;; *) echo "$FAKE/stack" ;; esac'
	program "$PROJECT/ci/selftests" 'echo "$FAKE/tests"'
	program "$PROJECT/scripts/stack" '[[ $1 != status ]] || echo series'
	program "$FAKE/bin/qemu-system-x86_64" '
		[[ $1 != --version ]] || { echo "QEMU emulator version 7.2.22 (fake)"; exit; }
		echo "$*" >>"$FAKE/boots"
		BOOT=$(wc -l <"$FAKE/boots")
		while (($#)); do
			case $1 in
			-chardev) [[ $2 != *verdict* ]] || verdict=${2##*path=} ;;
			-serial) console=${2#file:} ;;
			-D) : >"$2" ;;
			-kernel) kernel=$(cat "$2") ;;
			-initrd) plan=$(dirname "$2")/plan ;;
			esac
			shift
		done
		echo "[    0.1] Linux" >"$console"
		. "$FAKE/guest"
		for test in $(sed -n "s/^test \([^ ]*\) .*/\1/p" "$plan"); do
			echo "# begin $test"
			result "$test"
		done >"$verdict"
		echo "# done" >>"$verdict"'
	guest 'echo "ok 1 $1"'
	PATH=$FAKE/bin:$PATH
	RUN="$PROJECT/ci/run --lane svm-tdp"
}

# program FILE WORDS: a script.
program() {
	printf '#!/bin/bash\n%s\n' "$2" >"$1"
	chmod +x "$1"
}

# guest WORDS: what the guest says of test $1, on $kernel, in boot $BOOT. value: a line of a test's.
guest() {
	printf 'value() { echo "# $1"; echo "#| $1"; }\nresult() {\n%s\n}\n' "$1" >"$FAKE/guest"
}

rounds() {
	awk -F'\t' '{ printf "%s%s", sep, $2 ":" $3; sep = " " } END { print "" }' "$REPORT/vms.tsv"
}

@test "benchmarks: four boots a kernel, in turn; once for one kernel" {
	guest 'value quiet_pass_avg_us=$((100 + BOOT % 3)); echo "ok 1 $1"'
	run $RUN --test aging-lru
	[[ $status == 0 ]] || { echo "$output"; false; }
	[[ $(rounds) == "base:perf1 stack:perf2 stack:perf3 base:perf4 stack:perf5 base:perf6 base:perf7 stack:perf8" ]]
	grep -q 'quiet_pass_avg_us .* 4/4 .*~' "$REPORT/ab.txt"
	grep -q '^# Verdict: passed$' "$REPORT/summary.md"
	run $RUN --kernel stack --test aging-lru
	[[ $status == 0 && $(rounds) == "stack:perf1" && ! -e $REPORT/ab.txt ]] || { echo "$output"; false; }
}

@test "benchmarks: what is slower is measured again, told first, and exit 1" {
	guest '[[ $kernel == base ]] && us=100 || us=150; value quiet_pass_avg_us=$((us + BOOT)); echo "ok 1 $1"'
	run $RUN --test aging-lru,zap
	[[ $status == 1 ]] || { echo "$output"; false; }
	[[ $(rounds) == *"stack:perf8 base:confirm1 stack:confirm2 "*"stack:confirm8" ]]
	head -n 1 "$REPORT/summary.md" | grep -q '^# Verdict: failed, benchmarks slower: 2 (exit code 1)$'
	head -n 6 "$REPORT/summary.md" | grep -q '^- svm-tdp, stack, aging-lru: quiet_pass_avg_us: 1.4. times slower: a regression$'
	[[ $(xmllint --xpath 'count(//failure)' "$REPORT/junit.xml") == 2 ]]
	# Recorded, it is told, and no fault; nobody asks for it again.
	echo 'svm-* aging-lru quiet_*_us 1.6 for a reason' >>"$PROJECT/ci/regressions"
	run $RUN --test aging-lru
	[[ $status == 0 && $(rounds) == *"stack:perf8" && $output == *"times slower: recorded: for a reason"* ]] || { echo "$output"; false; }
}

@test "benchmarks: only tests that seem slower are measured again, and chance is no regression" {
	guest '[[ $1 == zap && $kernel == stack ]] && ((BOOT <= 8)) && us=150 || us=100
		value some_us=$((us + BOOT % 5)); echo "ok 1 $1"'
	run $RUN --test aging-lru,zap
	[[ $status == 0 ]] || { echo "$output"; false; }
	[[ $(rounds) == *"stack:confirm8" ]]
	[[ $(awk -F'\t' '$3 ~ /confirm/ { print $4 }' "$REPORT/results.tsv" | sort -u) == zap ]]
	grep -q 'zap .*some_us.*not again' "$REPORT/ab.txt"
	grep -q '^# Verdict: passed$' "$REPORT/summary.md"
}

@test "no value that a benchmark prints, and no comparison that fails, costs the report" {
	guest 'value "rc==0"; value "us=x"; value "a=1 some_us=1e9999"; echo "ok 1 $1"'
	run $RUN --test aging-lru
	[[ $status == 0 && -s $REPORT/junit.xml && -s $REPORT/results.json ]] || { echo "$output"; false; }
	program "$PROJECT/ci/compare" 'echo "compare: no" >&2; exit 2'
	run $RUN --test aging-lru
	[[ $status == 3 && -s $REPORT/junit.xml && -s $REPORT/summary.md ]] || { echo "$output"; false; }
}

@test "the base's results are kept whole or not at all, and looked at before use" {
	run $RUN --test alias
	[[ $status == 0 && $(wc -l <"$FAKE/boots") == 2 ]] || { echo "$output"; false; }
	run $RUN --test alias
	[[ $status == 0 && $(wc -l <"$FAKE/boots") == 3 && $output == *"nothing changed since"* ]] || { echo "$output"; false; }
	# As an older version may have left them, killed half way.
	for damage in "rm $KVM_STACK_CACHE/base-results/*/console" "truncate -s 10 $KVM_STACK_CACHE/base-results/*/verdict"; do
		: >"$FAKE/boots"
		$damage
		run $RUN --test alias
		[[ $status == 0 && $(wc -l <"$FAKE/boots") == 2 ]] || { echo "$output"; false; }
	done
	# What cannot be kept is not there.
	rm -rf "$KVM_STACK_CACHE/base-results"
	program "$FAKE/bin/cp" 'case "${!#}" in */base-results/*) /bin/cp "$1" "${!#}"; exit 1 ;; *) exec /bin/cp "$@" ;; esac'
	run $RUN --test alias
	[[ $status == 0 && -z $(ls "$KVM_STACK_CACHE/base-results") ]] || { echo "$output"; false; }
}

# tiny DIR: a file system of 200 KiB there.
tiny() {
	mkdir -p "$1"
	mount -t tmpfs -o size=200k none "$1" 2>/dev/null || skip "cannot mount a file system"
	TINY=$1
}

teardown() {
	[[ ! ${TINY-} ]] || umount "$TINY"
}

@test "disk full: exit 3 and which, before a run and in it" {
	tiny "$KVM_STACK_CACHE"
	run $RUN --test alias
	fails_with 3 "the cache needs 500 MiB under $KVM_STACK_CACHE, "
	fails_with 3 "make room, or set KVM_STACK_CACHE"
	umount "$TINY"
	TINY=
	tiny "$REPORT"
	guest 'head -c 300000 /dev/zero | tr "\0" x >"$(dirname "$verdict")/console"; echo "ok 1 $1"'
	run $RUN --test alias
	fails_with 3 "disk full: nothing can be written to $REPORT; make room"
}

@test "no memory for a VM: exit 3, and what the emulator said" {
	sed -i 's/. "$FAKE.guest"/echo "qemu: cannot set up guest memory: Cannot allocate memory" >\&2; exit 1/' "$FAKE/bin/qemu-system-x86_64"
	run $RUN --kernel stack --test alias
	fails_with 3 "this machine has no room for a VM of "
	fails_with 3 "qemu: cannot set up guest memory: Cannot allocate memory"
}

@test "no network, no key: exit 3, and which" {
	program "$FAKE/bin/apt-get" '[[ "$*" == *update* ]] && echo "W: Failed to fetch http://deb: Could not resolve" || { echo "E: Unable to locate package"; exit 100; }'
	run "$PROJECT/ci/run" --lane arm64-nv --test kunit
	fails_with 3 "W: Failed to fetch http://deb: Could not resolve"
	sed -i 's|^keyring=.*|keyring=/no/such/keyring|' "$PROJECT/BASE"
	run "$PROJECT/ci/run" --lane arm64-nv --test kunit
	fails_with 3 "no keys of Debian's in /no/such/keyring: install debian-archive-keyring"
}
