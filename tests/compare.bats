#!/usr/bin/env bats
# ci/compare: what it takes for samples, what it says of them, and how often it is wrong; no VM.

load common

setup() {
	copy_project
	REPORT=$BATS_TEST_TMPDIR/report
	mkdir "$REPORT"
}

# values LANE TEST KEY PREFIX BASE STACK: a value a boot, in turn, of a test that passed.
values() {
	local order=ABBABAABABBA n=0 i base stack kernel value

	read -ra base <<<"$5"
	read -ra stack <<<"$6"
	for ((i = 0; i < ${#order}; i++)); do
		n=$((n + 1))
		if [[ ${order:i:1} == A ]]; then
			kernel=base value=${base[0]-} base=("${base[@]:1}")
		else
			kernel=stack value=${stack[0]-} stack=("${stack[@]:1}")
		fi
		[[ $value ]] || continue
		printf '%s\t' "$1" "$kernel" "$4$n" "$2" "$3" >>"$REPORT/values.tsv"
		printf '%s\n' "$value" >>"$REPORT/values.tsv"
		printf '%s\t' "$1" "$kernel" "$4$n" "$2" passed 10 0 >>"$REPORT/results.tsv"
		echo >>"$REPORT/results.tsv"
	done
}

# row KEY: the rest of its line in the table.
row() {
	"$PROJECT/ci/compare" "$REPORT" | grep -F " $1 " | sed "s/.* $1 *//"
}

@test "compare: golden cases of the statistics" {
	gcc -O2 -o "$BATS_TEST_TMPDIR/compare" "$PROJECT/ci/lib/compare.c" -lm
	for c in "$BATS_TEST_DIRNAME"/compare/*.tsv; do
		"$BATS_TEST_TMPDIR/compare" "$c" | diff -u "${c%.tsv}.expected" -
	done
}

# simulate BOOTS EFFECT: 200 lanes with 3 rows of 3 samples a boot, and as many boots to confirm. Boots
# differ by a factor of up to two, samples of one boot by some percent. The generator is ours: the same
# numbers everywhere.
simulate() {
	awk -v OFS='\t' -v boots="$1" -v effect="$2" '
		function random() { seed = (seed * 16807) % 2147483647; return seed / 2147483647 }
		BEGIN {
			seed = 20261126
			for (lane = 1; lane <= 200; lane++)
				for (boot = 1; boot <= 4 * boots; boot++) {
					round = boot <= 2 * boots ? "perf" : "confirm"
					stack = substr("01101001", (boot - 1) % 8 + 1, 1) == "1"
					for (row = 1; row <= 3; row++) {
						speed = 1 + random()
						for (sample = 1; sample <= 3; sample++)
							print "l" lane, stack ? "stack" : "base", round boot, "t", "k" row "_us",
								100 * speed * (1 + random() / 20) * (stack ? effect : 1), "less"
					}
				}
		}' >"$BATS_TEST_TMPDIR/simulated"
	"$BATS_TEST_TMPDIR/compare" --data "$BATS_TEST_TMPDIR" "$BATS_TEST_TMPDIR/simulated" >/dev/null
}

@test "compare: where boots differ and kernels don't, it flags no more than it may" {
	gcc -O2 -o "$BATS_TEST_TMPDIR/compare" "$PROJECT/ci/lib/compare.c" -lm
	simulate 4 1
	# One in twenty by p, which has to be confirmed, and next to none by q.
	awk -F'\t' '$12 <= 0.05 { p++ } $14 == "better" { q++ } $14 == "not again" { again++ } $14 == "worse" { worse++ }
		END { print NR, p, q + 0, again, worse + 0; exit !(NR == 600 && p <= 30 && q <= 3 && again > 0 && worse <= 1) }' \
		"$BATS_TEST_TMPDIR/rows.tsv"
	# It is no wonder if it never flags anything.
	simulate 4 0.3
	awk -F'\t' '$14 == "better" { n++ } END { print NR, n; exit n != NR }' "$BATS_TEST_TMPDIR/rows.tsv"
	simulate 4 3
	awk -F'\t' '$14 == "worse" { n++ } END { print NR, n; exit n != NR }' "$BATS_TEST_TMPDIR/rows.tsv"
	# Two boots can't tell.
	simulate 2 0.3
	awk -F'\t' '$14 == "too few boots" { n++ } END { print NR, n; exit n != NR }' "$BATS_TEST_TMPDIR/rows.tsv"
}

@test "compare: what is slower, significantly by q alone, isn't better" {
	values l zap refault_ms perf "203.4 180.2 187.9 184.1" "211 204.7 191.6 208.7"
	[[ $(row refault_ms) == *"x1.10 "*"q=0.057 worse?" ]]
	values l zap refault_ms confirm "183.5 200.7 195.6 194" "249.3 243.1 191.8 199.3"
	[[ $(row refault_ms) == *"not again" ]]
}

@test "compare: only tests that passed count, and no reruns" {
	values l aging-lru quiet_pass_avg_us perf "100 101 102 103" "50 51 52 53"
	[[ $(row quiet_pass_avg_us) == *"4/4   x0.51 "*better ]]
	for outcome in failed timeout erratum splat lost known; do
		printf '%s\t' l stack perf9 aging-lru "$outcome" 10 0 >>"$REPORT/results.tsv"
		echo words >>"$REPORT/results.tsv"
		printf '%s\t' l stack perf9 aging-lru quiet_pass_avg_us >>"$REPORT/values.tsv"
		echo 9999 >>"$REPORT/values.tsv"
		[[ $(row quiet_pass_avg_us) == *"4/4   x0.51 "* ]] || { echo "$outcome counts"; false; }
	done
	values l aging-lru quiet_pass_avg_us again "9999 9999" "9999 9999"
	[[ $(row quiet_pass_avg_us) == *"4/4   x0.51 "* ]]
}

@test "compare: no value that a test prints ends it" {
	values l aging-lru quiet_pass_avg_us perf "100 101 102 103" "50 51 52 53"
	for value in '' '=0' 'nan' 'inf' '-5' 'word' $'a\tb' '1e999'; do
		printf '%s\t' l base perf1 aging-lru odd_us >>"$REPORT/values.tsv"
		printf '%s\n' "$value" >>"$REPORT/values.tsv"
	done
	printf '%s\t' l base perf1 aging-lru >>"$REPORT/values.tsv"
	printf '\t1\n' >>"$REPORT/values.tsv"
	[[ $(row quiet_pass_avg_us) == *better ]]
}

@test "compare: ci/metrics says of which keys more is better, and what is said twice" {
	values l contention-get "slot_mib=64 faults_per_ms" perf "1 2 3 4" "11 12 13 14"
	values l aging-lru faulting_faults_per_second perf "11 12 13 14" "1 2 3 4"
	values l redirty "guest=plain vcpus=1 redirty_us" perf "1 2 3 4" "1 2 3 4"
	values l redirty "guest=plain vcpus=1 fault_ns" perf "1 2 3 4" "1 2 3 4"
	[[ $(row faults_per_ms) == *better ]]
	[[ $(row faulting_faults_per_second) == *"worse?" ]]
	[[ $(row redirty_us) && -z $(row fault_ns) ]]
	# Every line has a kind, and the last one fits all.
	grep -vE '^(#|$)' "$PROJECT/ci/metrics" | while read -r _ kind _; do
		[[ $kind =~ ^(less|more|count|aside)$ ]]
	done
	[[ $(tail -n 1 "$PROJECT/ci/metrics") == ".* count"* ]]
}

@test "compare OLD NEW: what changed its outcome, and what moved" {
	values l redirty "guest=plain vcpus=1 redirty_us" perf "100 101 102 103" "50 51 52 53"
	cp -r "$REPORT" "$BATS_TEST_TMPDIR/old"
	rm "$REPORT"/*
	values l redirty "guest=plain vcpus=1 redirty_us" perf "102 103 101 100" "150 151 152 153"
	printf '%s\t' l stack 1 mirror-get passed 10 0 >>"$BATS_TEST_TMPDIR/old/results.tsv"
	printf '%s\t' l stack 1 mirror-get failed 10 1 >>"$REPORT/results.tsv"
	printf '%s\t' '' l stack 1 mirror-new passed 10 0 | sed '1s/^\t/\n/' >>"$REPORT/results.tsv"
	run "$PROJECT/ci/compare" "$BATS_TEST_TMPDIR/old" "$REPORT"
	[[ $status == 1 ]] || { echo "$output"; false; }
	[[ ${lines[0]} == "stack l mirror-get: passed -> failed" ]]
	[[ ${lines[1]} == "1 of 3 tests changed their outcome; 0 ran in the old report only, 1 in the new one only" ]]
	[[ $output == *"kernel stack"*"redirty_us"*"x2.94"*"worse?"* && $(grep -c redirty_us <<<"$output") == 1 ]] || { echo "$output"; false; }
	run "$PROJECT/ci/compare" "$REPORT" "$REPORT"
	[[ $status == 0 && ${lines[0]} == "0 of 4 tests changed"* && $output != *redirty_us* ]] || { echo "$output"; false; }
}

@test "compare: wrong usage" {
	run "$PROJECT/ci/compare" "$BATS_TEST_TMPDIR/none"
	fails_with 2 "no report in"
	echo garbage >"$REPORT/values.tsv"
	: >"$REPORT/results.tsv"
	run "$PROJECT/ci/compare" --all "$REPORT"
	fails_with 2 "samples:1: wants LANE"
	run "$PROJECT/ci/compare" --rows
	fails_with 2 "--rows wants a file"
	run "$PROJECT/ci/compare" a b c
	fails_with 2 "compares two reports, not 3"
	run "$PROJECT/ci/compare" --rows x "$REPORT" "$REPORT"
	fails_with 2 "go with one report"
}
