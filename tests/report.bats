#!/usr/bin/env bats
# What a run leaves behind: that all of it says the same, whatever tests print; no VM.

load common

setup() {
	copy_project
	export KVM_STACK_REPORT=$BATS_TEST_TMPDIR/report
	. "$PROJECT/scripts/common.sh"
	trap - ERR
	E_LOST=4 E_PANIC=5 E_NOKVM=6 E_ERRATUM=7
	. "$PROJECT/ci/lib/report.sh"
	begin_report
	emulator="QEMU emulator version 7.2.22"
	emulator_version() { echo "$emulator"; }
	declare -gA LANE=([name]=svm-tdp)
}

# result LANE KERNEL ROUND TEST OUTCOME MS FAULT DETAIL
result() {
	printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t' "${@:1:7}" >>"$REPORT/results.tsv"
	printf '%b\n' "$8" >>"$REPORT/results.tsv"
}

# row LANE TEST KEY KIND RATIO SIGN: one of ab.tsv.
row() {
	printf '%s\t%s\t%s\t%s\t100\t100\t4\t4\t%s\t1\t1\t0.03\t0.04\t%s\n' "$@" >>"$REPORT/ab.tsv"
	regressions >"$REPORT/regressions.tsv"
}

# xml XPATH: its string value in junit.xml.
xml() {
	xmllint --xpath "string($1)" "$REPORT/junit.xml"
}

# agree CODE: whether KTAP and JUnit tell of failures, which is if CODE is not 0.
agree() {
	local bad=$(($1 != 0))

	junit "$1"
	# Valid for more than one parser.
	/usr/bin/python3 -c 'import sys, xml.etree.ElementTree as t; t.parse(sys.argv[1])' "$REPORT/junit.xml"
	ktap "$1" >"$REPORT/ktap"
	[[ $(grep -c '^not ok' "$REPORT/ktap") == $((bad ? $(xml 'count(//testsuite[@failures>0])') : 0)) ]]
	(( ($(xml 'count(//failure)') > 0) == bad ))
	[[ $(xml 'count(//failure)') == "$(xml '/testsuites/@failures')" ]]
	[[ $(xml 'count(//skipped)') == "$(xml '/testsuites/@skipped')" ]]
	[[ $(xml 'count(//testcase)') == "$(xml '/testsuites/@tests')" ]]
}

@test "JUnit and KTAP agree with the verdict: what fails on the base is no failure" {
	result svm-tdp base 1 concurrency failed 5700 1 "not ok: no progress"
	result svm-tdp stack 1 concurrency passed 500 0 ""
	agree 0
	[[ $(xml '//testcase[@classname="svm-tdp.base"]/skipped/@message') == "fails on base, which is the reference: failed: not ok: no progress" ]]
	[[ $(xml '//testcase[@classname="svm-tdp.stack"]/@time') == 0.5 ]]
	grep -q '^    ok 1 concurrency # SKIP fails on base' "$REPORT/ktap"
	[[ $(summary 0 | head -n 1) == "# Verdict: passed" ]]
}

@test "JUnit and KTAP agree with the verdict: what fails on the stack, or on a base alone" {
	result svm-tdp stack 1 concurrency failed 5700 1 "not ok: no progress"
	result svm-tdp stack 1 recycle passed 100 0 ""
	result svm-tdp stack 1 kunit skipped 0 0 "no such suite"
	agree 1
	[[ $(xml '//testcase[@name="concurrency"]/failure/@message') == "failed: not ok: no progress" ]]
	[[ $(xml '//testcase[@name="kunit"]/skipped/@message') == "skipped: no such suite" ]]
	[[ $(xml 'count(//failure)') == 1 ]]
	: >"$REPORT/results.tsv"
	result svm-tdp base 1 concurrency failed 5700 1 "not ok: no progress"
	agree 1
}

@test "JUnit and KTAP agree with the verdict: a VM that is lost after its last test, an erratum" {
	result svm-tdp stack 1 recycle passed 100 0 ""
	agree 5
	[[ $(xml '//testsuite[@name="verdict"]//failure/@message') == "ci/run ends with 5"* ]]
	result svm-tdp stack 1 recycle erratum 100 0 "guest RIP"
	agree 7
	agree 0
}

@test "JUnit is valid XML, whatever a test prints" {
	mkdir -p "$REPORT/vm/svm-tdp.stack.1/tests"
	nasty='<&">'\'']]> \x01\x1b[1m \xff\xfe \xed\xa0\x80 \xef\xbf\xbe \xc3\xa9 \x7f\x00end'
	result svm-tdp stack 1 recycle failed 100 1 "$nasty"
	result svm-tdp stack 1 alias skipped 100 0 "$nasty"
	printf "$nasty\n<last>\n" >"$REPORT/vm/svm-tdp.stack.1/tests/recycle.log"
	agree 1
	[[ $(xml '//failure/@message') == "failed: <&\">']]> "*" é "*end ]] || { xml '//failure/@message'; false; }
	[[ $(xml '//failure') == *"]]>"*end$'\n'"<last>" ]]
	results_json 1
	jq -e '.results | length == 2' "$REPORT/results.json"
	# KTAP takes "#" for the begin of a directive.
	result svm-tdp stack 1 alias failed 100 1 "1 # SKIP 2"
	ktap 1 | grep -q '^    not ok 3 alias # failed: 1  SKIP 2$'
}

@test "no Python of the tree under test is run, and a tree without kunit.py is no fault" {
	run grep -rn kunit.py "$PROJECT/ci"
	[[ $status == 1 ]] || { echo "$output"; false; }
	result svm-tdp stack 1 recycle passed 100 0 ""
	run end_report 0
	[[ $status == 0 && -s $REPORT/junit.xml && -s $REPORT/summary.md && ${lines[-1]} == "1 passed, 0 failed, 0 skipped (kernel: stack;"* ]]
}

@test "summary: verdict, counts, errata and regressions first, then what shows a failure" {
	mkdir -p "$REPORT/vm/svm-tdp.stack.1/tests"
	{ seq -f 'before %g' 30; echo '[ 1.0] WARNING: x.c:1 at f'; seq -f 'after %g' 30; } >"$REPORT/vm/svm-tdp.stack.1/console"
	seq -f 'line %g' 30 >"$REPORT/vm/svm-tdp.stack.1/tests/alias.log"
	result svm-tdp base 1 recycle failed 1 1 "on the base"
	result svm-tdp stack 1 recycle splat 1 1 "[ 1.0] WARNING: x.c:1 at f"
	result svm-tdp stack 1 alias failed 1 1 "words"
	result svm-tdp stack 1 aging lost 1 1 "the VM was lost while it ran"
	result svm-tdp stack 1 ring erratum 1 0 "guest RIP 0x1"
	row svm-tdp redirty redirty_us less 1.5 worse
	summary 1 >"$REPORT/summary.md"
	head -n 12 "$REPORT/summary.md"
	[[ $(head -n 1 "$REPORT/summary.md") == "# Verdict: failed, benchmarks slower: 1, errata of the emulator: 1 (exit code 1)" ]]
	head -n 3 "$REPORT/summary.md" | grep -qx 'Kernel stack: 0 passed, 3 failed, 1 skipped'
	head -n 12 "$REPORT/summary.md" | grep -q '^- svm-tdp, stack, redirty: redirty_us: 1.50 times slower: a regression$'
	head -n 12 "$REPORT/summary.md" | grep -q '^- svm-tdp, stack, ring: erratum: guest RIP 0x1$'
	sed -n '/^## Failures/,/^## What ran/p' "$REPORT/summary.md" >"$REPORT/failures"
	grep -q '^      before 29$' "$REPORT/failures"
	grep -q '^      after 9$' "$REPORT/failures"
	refute grep -q 'before 28$\|after 10$\|on the base' "$REPORT/failures"
	grep -q '^      line 21$' "$REPORT/failures"
	grep -q '^      line 30$' "$REPORT/failures"
	grep -q '^      after 30$' "$REPORT/failures"
	[[ $(wc -l <"$REPORT/failures") -lt 55 ]]
}

@test "regressions: told, counted by JUnit, and allowed where ci/regressions says so" {
	: >"$PROJECT/ci/regressions"
	result svm-tdp base perf1 redirty passed 1 0 ""
	result svm-tdp stack perf2 redirty passed 1 0 ""
	row svm-tdp redirty "guest=plain vcpus=1 redirty_us" less 1.5 worse
	row svm-tdp contention-get "slot_mib=16 faults_per_ms" more 0.5 worse
	row svm-tdp zap shrink_ms less 1.4 "worse?"
	row svm-tdp zap destroy_ms less 0.5 better
	row svm-tdp zap delete_ms less 1.5 "not again"
	[[ $(cut -f3,4,5 "$REPORT/regressions.tsv" | tr '\t\n' '=;') == \
		"guest=plain vcpus=1 redirty_us=1.50=new;slot_mib=16 faults_per_ms=2.00=new;shrink_ms=1.40=unconfirmed;" ]]
	[[ $(suspects svm-tdp) == zap && -z $(suspects svm-shadow) ]]
	agree 1
	[[ $(xml '//failure/@message') == "new regression: x1.50" ]]
	[[ $(xml 'count(//failure)') == 2 ]]
	printf '%s\n' 'svm-* redirty guest=plain*redirty_us 1.6 the layout of the code' 'svm-tdp contention-* *faults_per_ms 1.9 some reason' \
		'svm-tdp zap *_ms 1.4 another reason' >"$PROJECT/ci/regressions"
	regressions >"$REPORT/regressions.tsv"
	[[ $(cut -f5,6 "$REPORT/regressions.tsv" | tr '\t\n' '=;') == \
		"recorded=the layout of the code;new=ci/regressions allows x1.9;recorded=another reason;" ]]
	[[ -z $(suspects svm-tdp) ]]
	agree 1
	[[ $(xml 'count(//failure)') == 1 ]]
	summary 1 | grep -q '^- svm-tdp, stack, redirty: guest=plain vcpus=1 redirty_us: 1.50 times slower: recorded: the layout of the code$'
	results_json 1
	jq -e '.regressions[0].state == "recorded" and .comparisons[0].sign == "worse"' "$REPORT/results.json"
}

@test "every line of ci/regressions is about a lane and a test that exist, and has a limit and a reason" {
	grep -vE '^(#|$)' "$PROJECT/ci/regressions" | while read -r lanes test _ worst reason; do
		for lane in ${lanes//,/ }; do
			compgen -G "$PROJECT/ci/lanes/$lane" >/dev/null || { echo "no lane $lane"; exit 1; }
		done
		found=
		for name in $(cat "$PROJECT"/ci/sets/* | grep -v '^#' | cut -d' ' -f1); do
			# shellcheck disable=SC2053
			[[ $name != $test ]] || found=1
		done
		[[ $found && $worst =~ ^[1-9][0-9]*\.[0-9]+$ && $reason ]] || { echo "$lanes $test"; exit 1; }
	done
}

@test "a report names the emulators that ran, of each VM, and no other" {
	dir=$BATS_TEST_TMPDIR/vm
	mkdir -p "$dir/tests"
	for f in verdict console emulator.log plan command; do : >"$dir/$f"; done
	LANE[name]=vmx-ept emulator="Bochs x86 Emulator 3.0"
	keep_vm "$dir" bochs "done" stack 1
	LANE[name]=arm64-nv emulator="QEMU emulator version 10.0.2 (Debian 1:10+dfsg-7)"
	keep_vm "$dir" tcg "done" stack 1
	result vmx-ept stack 1 recycle passed 1 0 ""
	[[ $(caption) == *", Bochs x86 Emulator 3.0, QEMU emulator version 10.0.2 (Debian 1:10+dfsg-7)" && $(caption) != *7.2* ]]
	results_json 0
	jq -e '[.vms[].emulator] == ["Bochs x86 Emulator 3.0", "QEMU emulator version 10.0.2 (Debian 1:10+dfsg-7)"]' "$REPORT/results.json"
}

@test "a report is of the stack that this repository holds, or says of what" {
	STACK_COMMIT=abcdef
	[[ $(caption) == "stack abcdef, base "* ]]
	TESTED="build/linux 01234567, 3 of 67 patches"
	[[ $(caption) == "build/linux 01234567, 3 of 67 patches, base "* ]]
	result svm-tdp stack 1 recycle passed 1 0 ""
	results_json 0
	echo table >"$REPORT/ab.txt"
	summary 0 >"$REPORT/summary.md"
	run "$PROJECT/ci/report" "$REPORT"
	fails_with 1 "was of build/linux 01234567, 3 of 67 patches, which isn't what series says"
	TESTED=
	results_json 0
	run "$PROJECT/ci/report" "$REPORT"
	[[ $status == 0 ]] || { echo "$output"; false; }
}

@test "ci/report keeps a run that compared, of what is committed, and no other" {
	report=$BATS_TEST_TMPDIR/other
	mkdir "$report"
	run "$PROJECT/ci/report" "$report"
	fails_with 2 "no report in $report"
	echo '# Verdict: passed' >"$report/summary.md"
	echo '<svg/>' >"$report/a.svg"
	echo table >"$report/ab.txt"
	# kept EXIT COMMIT TESTED
	keep() {
		jq -n --argjson exit "$1" --arg commit "$2" "{ exit: \$exit, commit: \$commit ${3-} }" >"$report/results.json"
		run "$PROJECT/ci/report" "$report"
	}
	keep 1 abcdef ', tested: ""'
	fails_with 1 "ended with exit code 1"
	keep 0 abcdef-dirty ', tested: ""'
	fails_with 1 "commit first"
	keep 0 abcdef
	fails_with 1 "something that its report does not name"
	[[ ! -e $PROJECT/results ]]
	mkdir "$PROJECT/results" && touch "$PROJECT/results/old.svg"
	keep 0 abcdef ', tested: ""'
	[[ $status == 0 && -s $PROJECT/results/README.md && -s $PROJECT/results/a.svg && ! -e $PROJECT/results/old.svg ]]
	: >"$report/ab.txt"
	keep 0 abcdef ', tested: ""'
	fails_with 1 "compares nothing"
	[[ -s $PROJECT/results/README.md ]]
}
