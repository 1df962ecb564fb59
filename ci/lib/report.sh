# shellcheck shell=bash
# build/report: what a run leaves behind. Sourced by ci/run, after scripts/common.sh.
#
# results.tsv   LANE KERNEL ROUND TEST OUTCOME MS FAULT DETAIL, as the VMs go by
# values.tsv    LANE KERNEL ROUND TEST KEY VALUE: the "key=value" lines of the tests
# vms.tsv       LANE KERNEL ROUND ACCELERATOR END RELEASE CPUS EMULATOR
# ab.txt, ab.tsv  base against stack, for people and for programs: ci/compare
# regressions.tsv LANE TEST KEY TIMES STATE REASON: what is slower; STATE is new, recorded (in
#               ci/regressions) or unconfirmed
# results.json, junit.xml, ktap, summary.md, *.svg: made of these at the end
# vm/LANE.KERNEL.ROUND/   verdict (KTAP), console, tests/NAME.log, plan, command, and of a VM that was
#                         lost, what it takes to run command again, and registers

REPORT=$(realpath -m -- "${KVM_STACK_REPORT:-$BUILD/report}")
STACK_COMMIT=	# what this repository is at when a run begins; "-dirty" if there is more to it
TESTED=${TESTED-}	# ci/run's: what was tested instead of the stack that this repository holds

declare -gA TOOK=()	# "LANE TEST" -> the milliseconds of the last report's run
begin_report() {
	local lane name ms

	mkdir -p "$REPORT" 2>/dev/null || die $E_ENV "cannot create $REPORT"
	# Nothing is deleted that is not ours.
	[[ -f $REPORT/results.tsv || -z $(find "$REPORT" -mindepth 1 -maxdepth 1 ! -name .lock -print -quit) ]] ||
		die $E_USAGE "$REPORT is not empty, and holds no report: name another folder"
	exec 8>"$REPORT/.lock"
	flock -n 8 || die $E_ENV "another run is writing $REPORT: wait for it, or use --report DIR"
	while IFS=$'\t' read -r lane _ _ name _ ms _; do
		TOOK["$lane ${name%%:*}"]=$ms
	done < <(cat "$REPORT/results.tsv" 2>/dev/null || true)
	rm -rf "$REPORT"/{results,values,vms,ab,regressions}.tsv "$REPORT"/{results.json,junit.xml,summary.md,ab.txt,ktap,vm} "$REPORT"/*.svg
	VMS=$REPORT/vm
	mkdir -p "$VMS" || die $E_ENV "cannot write $REPORT"
	STACK_COMMIT=$(git -C "$ROOT" describe --always --dirty 2>/dev/null || echo unknown)
	new_tables
}

# new_tables: empty ones, in $REPORT.
new_tables() {
	local table

	for table in results values vms ab regressions; do
		: >"$REPORT/$table.tsv"
	done
}

# estimate PLAN: for how long its tests will run, if the last report has all of them.
estimate() {
	local name sum=0

	while read -r name; do
		[[ ${TOOK["${LANE[name]} ${name%%:*}"]-} ]] || return 0
		sum=$((sum + ${TOOK["${LANE[name]} ${name%%:*}"]}))
	done < <(awk '$1 == "test" { print $2 }' "$1")
	((sum < 60000)) && echo ", less than a minute" || echo ", about $(((sum + 30000) / 60000)) min"
}

# vm_folder LABEL ROUND: where what is left of a VM is kept.
vm_folder() {
	echo "$VMS/${LANE[name]}.$1.$2"
}

# keep_vm DIR ACCEL END LABEL ROUND
keep_vm() {
	local to f

	to=$(vm_folder "$4" "$5")
	mkdir -p "$to"
	cp -r "$1"/{verdict,console,emulator.log,plan,command,tests} "$to/"
	# Of a VM that was lost, also what its CPUs were at, and what it takes to run "command" again.
	for f in cpu_reset registers initramfs cd debugger; do
		[[ $3 == done || ! -e $1/$f ]] || mv "$1/$f" "$to/"
	done
	printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "${LANE[name]}" "$4" "$5" "$2" "$3" \
		"$(awk '/^# kernel=/ { k = substr($0, 10) } /^# cpus=/ { c = substr($0, 8) } END { print k "\t" c }' "$1/verdict")" \
		"$(emulator_version)" >>"$REPORT/vms.tsv"
	rm -rf "$1"/{initramfs,cd}
}

# counted: the kernels under test. Next to the stack, the base is the reference, and may fail.
counted() {
	local kernels

	[[ ! ${COUNTED-} ]] || { printf '%s\n' "$COUNTED"; return; }
	kernels=$(cut -f2 "$REPORT/results.tsv" | sort -u | paste -sd' ')
	[[ $kernels != "base stack" ]] || kernels=stack
	printf '%s\n' "$kernels"
}

# compare_kernels [OPTION...]: base against stack, as far as they have run. Exit: that of ci/compare.
compare_kernels() {
	local code=0

	[[ -s $REPORT/values.tsv && $(cut -f2 "$REPORT/values.tsv" | sort -u | paste -sd' ') == "base stack" ]] || return 0
	"$ROOT/ci/compare" --rows "$REPORT/ab.tsv" "$@" "$REPORT" >"$REPORT/ab.txt" 8>&- || code=$?
	regressions >"$REPORT/regressions.tsv"
	return "$code"
}

# regressions: the lines of regressions.tsv, from ab.tsv and what ci/regressions has recorded.
regressions() {
	local lane test key times sign state reason lanes tests keys worst why

	awk -F'\t' -v OFS='\t' '$14 == "worse" || $14 == "worse?" {
		print $1, $2, $3, sprintf("%.2f", $4 == "less" ? $9 : ($9 > 0 ? 1 / $9 : 999)), $14 }' "$REPORT/ab.tsv" |
		while IFS=$'\t' read -r lane test key times sign; do
			state=new reason=
			[[ $sign == worse ]] || state=unconfirmed
			while read -r lanes tests keys worst why; do
				[[ $lanes == "#"* || -z $lanes ]] && continue
				# shellcheck disable=SC2053 # patterns are meant
				[[ $test == $tests && $key == $keys ]] || continue
				matches "$lane" "$lanes" || continue
				if awk -v t="$times" -v w="$worst" 'BEGIN { exit !(t <= w) }'; then
					state=recorded reason=$why
				else
					reason="ci/regressions allows x$worst"
				fi
				break
			done <"$ROOT/ci/regressions"
			printf '%s\t' "$lane" "$test" "$key" "$times" "$state"
			printf '%s\n' "$reason"
		done
}

# check_regressions: that every line of ci/regressions can be read.
check_regressions() {
	local lanes tests keys worst reason

	while read -r lanes tests keys worst reason; do
		[[ $lanes == "#"* || -z $lanes ]] && continue
		[[ $worst =~ ^[1-9][0-9]*(\.[0-9]+)?$ && $reason ]] ||
			die $E_USAGE "ci/regressions: cannot read '$lanes $tests $keys $worst $reason': wants LANES TEST KEY WORST REASON"
	done <"$ROOT/ci/regressions"
}

# suspects LANE: its tests that seem to be slower, and have not been measured again.
suspects() {
	awk -F'\t' -v lane="$1" '$1 == lane && $5 == "unconfirmed" && !seen[$2]++ { print $2 }' "$REPORT/regressions.tsv"
}

# cases CODE: what programs are told, in one form for KTAP and JUnit, so that both agree with the
# verdict: SUITE CLASS NAME pass|skip|fail MS WORDS ROUND TEST a line. Something fails here if, and only
# if, CODE is not 0.
cases() {
	awk -F'\t' -v OFS='\t' -v code="$1" -v counted=" $(counted) " '
		FILENAME == ARGV[1] {
			vm = $1 "." $2 "." $3
			words = $8
			for (i = 9; i <= NF; i++)
				words = words " " $i
			if ($5 != "passed")
				words = $5 (words == "" ? "" : ": " words)
			is = "pass"
			if ($7)
				is = index(counted, " " $2 " ") ? "fail" : "skip"
			else if ($5 == "skipped" || $5 == "known" || $5 == "erratum")
				is = "skip"
			if ($7 && is == "skip")
				words = "fails on " $2 ", which is the reference: " words
			failed += is == "fail"
			print vm, $1 "." $2, $4 ($3 == "1" ? "" : " (boot " $3 ")"), is, $6, words, $3, $4
			next
		}
		{
			is = $5 == "new" ? "fail" : "skip"
			failed += is == "fail"
			print "benchmarks", $1 ".stack", $2 ": " $3, is, 0, $5 " regression: x" $4 ($6 == "" ? "" : ": " $6), "", $2 " " $3
		}
		# What is no fault of a test, e.g. a VM that was lost after its last one.
		END {
			print "verdict", "ci/run", "exit code", code && !failed ? "fail" : "pass", 0, \
				code ? "ci/run ends with " code ", see ci/run --help" : "", "", "exit code"
		}' "$REPORT/results.tsv" "$REPORT/regressions.tsv"
}

# ktap CODE: all VMs as subtests of one run, with the final outcomes.
ktap() {
	cases "$1" | awk -F'\t' '
	function line(ok, n, name, directive) {
		return (ok ? "ok " : "not ok ") n " " name (directive != "" ? " # " directive : "")
	}
	{
		if (!($1 in count))
			order[++suites] = $1
		n = ++count[$1]
		words = $6
		gsub(/#/, "", words)
		if ($4 == "skip")
			words = "SKIP " words
		body[$1] = body[$1] "    # time_ms=" $5 "\n    " line($4 != "fail", n, $8, words) "\n"
		bad[$1] += $4 == "fail"
	}
	END {
		print "KTAP version 1\n1.." suites
		for (i = 1; i <= suites; i++) {
			print "    KTAP version 1\n    # Subtest: " order[i] "\n    1.." count[order[i]]
			printf "%s", body[order[i]]
			print line(!bad[order[i]], i, order[i], "")
		}
	}'
}

# plain: text for people and for XML, from what a test or a kernel wrote: no control characters.
plain() {
	LC_ALL=C tr -d '\000-\010\013-\037\177'
}

# junit CODE: the same for CI systems, as JUnit XML, with what shows a failure as its text. jq makes
# valid UTF-8 of anything; U+FFFE and U+FFFF are the rest that XML does not take.
junit() {
	cases "$1" | plain | jq -Rrn --rawfile excerpts <(excerpts_tsv | plain) '
	def xml: gsub("[\ufffe\uffff]"; "?") | @html;
	def seconds: map(.[4] | tonumber) | add / 1000;
	def count(what): map(select(.[3] == what)) | length;
	def attributes: "tests=\"\(length)\" failures=\"\(count("fail"))\" skipped=\"\(count("skip"))\" time=\"\(seconds)\"";
	($excerpts | split("\n") | map(select(length > 0) | split("\t")) |
		group_by(.[0:2]) | map({ key: .[0][0:2] | join("\t"), value: map(.[2:] | join("\t")) | join("\n") }) | from_entries) as $shown |
	[inputs | split("\t")] as $cases |
	"<?xml version=\"1.0\" encoding=\"UTF-8\"?>",
	"<testsuites name=\"ci/run\" \($cases | attributes)>",
	($cases | group_by(.[0])[] |
		"  <testsuite name=\"\(.[0][0] | xml)\" \(attributes)>",
		(.[] | "    <testcase classname=\"\(.[1] | xml)\" name=\"\(.[2] | xml)\" time=\"\((.[4] | tonumber) / 1000)\"" +
			if .[3] == "pass" then "/>"
			elif .[3] == "skip" then "><skipped message=\"\(.[5] | xml)\"/></testcase>"
			else "><failure message=\"\(.[5] | xml)\">\($shown[.[0] + "\t" + .[7]] // "" | xml)</failure></testcase>" end),
		"  </testsuite>"),
	"</testsuites>"' >"$REPORT/junit.xml"
}

# excerpt VM TEST OUTCOME DETAIL: some ten lines that show a failure: a splat and what stands around
# it, the last words of a VM that was lost, or those of the test.
excerpt() {
	local vm=$REPORT/vm/$1

	case $3 in
	splat) tr -d '\r' <"$vm/console" | grep -aF -m1 -B2 -A9 -e "$4" ;;
	lost) tr -d '\r' <"$vm/console" | grep -aF -m1 -B2 -A9 -e "${4#*: }" || tail -n 12 "$vm/console" ;;
	*) tail -n 10 "$vm/tests/$2.log" ;;
	esac 2>/dev/null | cut -c1-300 || true
}

# failures: LANE KERNEL ROUND TEST OUTCOME DETAIL of each failure of the kernels under test.
failures() {
	awk -F'\t' -v OFS='\t' -v counted=" $(counted) " '$7 == 1 && index(counted, " " $2 " ") { print $1, $2, $3, $4, $5, $8 }' \
		"$REPORT/results.tsv"
}

# excerpts_tsv: VM TEST LINE, of the failures.
excerpts_tsv() {
	local lane kernel round test outcome detail

	while IFS=$'\t' read -r lane kernel round test outcome detail; do
		excerpt "$lane.$kernel.$round" "$test" "$outcome" "$detail" | awk -v k="$lane.$kernel.$round"$'\t'"$test" '{ print k "\t" $0 }'
	done < <(failures)
}

# emulators: those that ran, a line each.
emulators() {
	cut -f8 "$REPORT/vms.tsv" | sort -u
}

# results_json CODE
results_json() {
	jq -Rn --rawfile vms "$REPORT/vms.tsv" --rawfile values "$REPORT/values.tsv" --rawfile ab "$REPORT/ab.tsv" \
		--rawfile regressions "$REPORT/regressions.tsv" --arg exit "$1" \
		--arg commit "$STACK_COMMIT" --arg tested "$TESTED" --arg tree "${TREE-}" --arg date "$(date -u +%FT%TZ)" \
		--arg base "$(base_name)" '
	def rows: split("\n") | map(select(length > 0) | split("\t"));
	def number: tonumber? // null;
	{ commit: $commit, tested: $tested, tree: $tree, date: $date, base: $base, exit: ($exit | tonumber),
	  vms: ($vms | rows | map({lane: .[0], kernel: .[1], round: .[2], accelerator: .[3], end: .[4], release: .[5], cpus: .[6],
		emulator: .[7]})),
	  results: [inputs | split("\t") | {lane: .[0], kernel: .[1], round: .[2], test: .[3], outcome: .[4],
		ms: (.[5] | tonumber), fault: (.[6] == "1"), detail: (.[7:] | join(" "))}],
	  values: ($values | rows | map({lane: .[0], kernel: .[1], round: .[2], test: .[3], key: .[4], value: .[5]})),
	  comparisons: ($ab | rows | map({lane: .[0], test: .[1], key: .[2], better: .[3], base: (.[4] | number), stack: (.[5] | number),
		base_boots: (.[6] | number), stack_boots: (.[7] | number), ratio: (.[8] | number), low: (.[9] | number),
		high: (.[10] | number), p: (.[11] | number), q: (.[12] | number), sign: .[13]})),
	  regressions: ($regressions | rows | map({lane: .[0], test: .[1], key: .[2], times: (.[3] | number), state: .[4], reason: .[5]})) }' \
		<"$REPORT/results.tsv" >"$REPORT/results.json"
}

# base_name: what the base is: ci/run's words, or the version of build/linux.
base_name() {
	[[ ! ${BASE_NAME-} ]] || { printf '%s\n' "$BASE_NAME"; return; }
	cat "$BUILD/base-version" 2>/dev/null || echo unknown
}

# caption: what it takes to know what a figure is about, but for its lane.
caption() {
	echo "${TESTED:-stack $STACK_COMMIT}, base $(base_name), $(emulators | awk '{ printf "%s%s", (NR > 1 ? ", " : ""), $0 }')"
}

# counts: of the kernels under test, "N passed, N failed, N skipped".
counts() {
	awk -F'\t' -v counted=" $(counted) " '
		!index(counted, " " $2 " ") { next }
		$7 == 1 { f++; next }
		$5 == "passed" || $5 == "unexpected-pass" { p++; next }
		{ s++ }
		END { printf "%d passed, %d failed, %d skipped\n", p, f, s }' "$REPORT/results.tsv"
}

# verdict CODE: the first lines of the summary: all that counts.
verdict() {
	local end errata new lane kernel round test outcome detail

	errata=$(awk -F'\t' '$5 == "erratum" { sub(/:.*/, "", $4); n[$1, $2, $4] } END { for (i in n) c++; print c + 0 }' "$REPORT/results.tsv")
	new=$(awk -F'\t' '$5 == "new"' "$REPORT/regressions.tsv" | wc -l)
	case $1 in
	0) end=passed ;;
	"$E_STACK") end='failed' ;;
	"$E_LOST") end='a VM was lost' ;;
	"$E_PANIC") end='a kernel panicked, or did not come up' ;;
	"$E_NOKVM") end='a kernel has no usable KVM' ;;
	"$E_ERRATUM") end="an erratum of the emulator's came back" ;;
	*) end='the environment is at fault' ;;
	esac
	((new == 0)) || end+=", benchmarks slower: $new"
	((errata == 0)) || end+=", errata of the emulator: $errata"
	(($1 == 0)) || end+=" (exit code $1)"
	echo "# Verdict: $end"
	echo
	echo "Kernel $(counted): $(counts)"
	echo
	echo "$(date -u +%F), $(caption)"
	if [[ -s $REPORT/regressions.tsv ]]; then
		echo
		awk -F'\t' '{ printf "- %s, stack, %s: %s: %s times slower: %s%s\n", $1, $2, $3, $4,
			$5 == "new" ? "a regression" : $5, $6 == "" ? "" : ": " $6 }' "$REPORT/regressions.tsv"
	fi
	if ((errata)); then
		echo
		awk -F'\t' '$5 == "erratum" { print "- " $1 ", " $2 ", " $4 ": erratum: " $8 }' "$REPORT/results.tsv"
	fi
	[[ $(failures) ]] || return 0
	printf '\n## Failures\n'
	while IFS=$'\t' read -r lane kernel round test outcome detail; do
		printf '\n- %s, %s, %s: %s: %s\n\n' "$lane" "$kernel" "$test" "$outcome" "$detail"
		excerpt "$lane.$kernel.$round" "$test" "$outcome" "$detail" | plain | sed 's/^/      /'
	done < <(failures)
}

# summary CODE: the report for people, as markdown.
summary() {
	verdict "$1"
	echo
	echo '## What ran'
	echo
	echo '| lane | kernel | release | accelerator | CPUs | end |'
	echo '|---|---|---|---|---|---|'
	# The caption has the emulator, if it was one for all.
	awk -F'\t' -v emulators="$(emulators | wc -l)" '{
		printf "| %s | %s (boot %s) | %s | %s | %s | %s |\n", $1, $2, $3, $6, $4 (emulators > 1 ? ", " $8 : ""), $7, $5
	}' "$REPORT/vms.tsv"
	echo
	echo '## Tests'
	echo
	awk -F'\t' -v counted=" $(counted) " '
	{
		if (!($4 in seen)) { seen[$4] = 1; tests[++nt] = $4 }
		if (!($1 in lane)) { lane[$1] = 1; lanes[++nl] = $1 }
		if (!($2 in kern)) { kern[$2] = 1; kerns[++nk] = $2 }
		k = $4 SUBSEP $1 SUBSEP $2 SUBSEP $5
		runs[k]++
		k = $4 SUBSEP $1 SUBSEP $2
		if (!(k in ms))
			ms[k] = $6
		if (runs[k, $5] == 1)
			outcomes[k] = outcomes[k] SUBSEP $5
		if ($5 != "passed" && $5 != "erratum" && $8 != "" && !($7 == 1 && index(counted, " " $2 " ")))
			note[++nn] = "- " $1 ", " $2 ", " $4 ": " $5 ": " $8
	}
	# Eight boots that passed are one word.
	function cell(k,	n, i, word, text) {
		n = split(substr(outcomes[k], 2), word, SUBSEP)
		for (i = 1; i <= n; i++)
			text = text (i > 1 ? ", " : "") (runs[k, word[i]] > 1 ? runs[k, word[i]] " " : "") word[i]
		return text sprintf(" (%.1f s)", ms[k] / 1000)
	}
	END {
		printf "| test |"
		for (l = 1; l <= nl; l++) for (k = 1; k <= nk; k++) printf " %s %s |", lanes[l], kerns[k]
		printf "\n|---|"
		for (l = 1; l <= nl * nk; l++) printf "---|"
		print ""
		for (t = 1; t <= nt; t++) {
			printf "| %s |", tests[t]
			for (l = 1; l <= nl; l++) for (k = 1; k <= nk; k++) {
				key = tests[t] SUBSEP lanes[l] SUBSEP kerns[k]
				printf " %s |", (key in ms) ? cell(key) : "-"
			}
			print ""
		}
		if (nn) {
			print "\n## Not simply passed\n"
			for (i = 1; i <= nn; i++) print note[i]
		}
	}' "$REPORT/results.tsv"
	if [[ -s $REPORT/ab.txt ]]; then
		echo
		echo '## Base against stack'
		echo
		echo 'A boot is a sample. The ratio has its interval, q says how many rows like it are chance; the signs are'
		echo "those of ci/compare --help."
		echo
		echo '```'
		cat "$REPORT/ab.txt"
		echo '```'
		for svg in "$REPORT"/*.svg; do
			[[ -f $svg ]] && printf '\n![%s](%s)\n' "$(basename "$svg" .svg)" "$(basename "$svg")"
		done
	fi
	return 0
}

# end_report CODE: all that is made of a run's results, after compare_kernels.
end_report() {
	local COUNTED

	COUNTED=$(counted)
	ktap "$1" >"$REPORT/ktap"
	junit "$1"
	results_json "$1"
	summary "$1" >"$REPORT/summary.md"
	cat "$REPORT/summary.md"
	printf '\n%s (kernel: %s; report: %s)\n' "$(counts)" "$(counted)" "$REPORT/summary.md"
}
