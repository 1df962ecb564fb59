# shellcheck shell=bash
# build/report: what a run leaves behind. Sourced by ci/run, after scripts/common.sh.
#
# results.tsv   LANE KERNEL ROUND TEST OUTCOME MS FAULT DETAIL, as the VMs go by
# values.tsv    LANE KERNEL ROUND TEST KEY VALUE: the "key=value" lines of the tests
# vms.tsv       LANE KERNEL ROUND ACCELERATOR END RELEASE CPUS
# results.json, junit.xml, summary.md, ab.txt, ktap, *.svg: made of these at the end
# vm/LANE.KERNEL.ROUND/   verdict (KTAP), console, tests/NAME.log, plan, command, and of a VM that was
#                         lost, what it takes to run command again, and registers

REPORT=$(realpath -m -- "${KVM_STACK_REPORT:-$BUILD/report}")
STACK_COMMIT=	# what this repository is at when a run begins; "-dirty" if there is more to it
TESTED=${TESTED-}	# ci/run's: what was tested instead of the stack that this repository holds

begin_report() {
	mkdir -p "$REPORT" 2>/dev/null || die $E_ENV "cannot create $REPORT"
	# Nothing is deleted that is not ours.
	[[ -f $REPORT/results.tsv || -z $(find "$REPORT" -mindepth 1 -maxdepth 1 ! -name .lock -print -quit) ]] ||
		die $E_USAGE "$REPORT is not empty, and holds no report: name another folder"
	exec 8>"$REPORT/.lock"
	flock -n 8 || die $E_ENV "another run is writing $REPORT: wait for it, or use --report DIR"
	rm -rf "$REPORT"/{results.tsv,values.tsv,vms.tsv,results.json,junit.xml,summary.md,ab.txt,ktap,kunit.log,vm} "$REPORT"/*.svg
	mkdir -p "$REPORT/vm" || die $E_ENV "cannot write $REPORT"
	STACK_COMMIT=$(git -C "$ROOT" describe --always --dirty 2>/dev/null || echo unknown)
	: >"$REPORT/results.tsv"
	: >"$REPORT/values.tsv"
	: >"$REPORT/vms.tsv"
}

# vm_folder LABEL ROUND: where what is left of a VM is kept.
vm_folder() {
	echo "$REPORT/vm/${LANE[name]}.$1.$2"
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
		"$(sed -n 's/^# kernel=//p' "$1/verdict")" "$(sed -n 's/^# cpus=//p' "$1/verdict")" >>"$REPORT/vms.tsv"
	rm -rf "$1"/{initramfs,cd}
}

# ktap: all VMs as subtests of one run, with the final outcomes; kunit.py reads this.
ktap() {
	awk -F'\t' '
	function line(ok, n, name, directive) {
		return (ok ? "ok " : "not ok ") n " " name (directive != "" ? " # " directive : "")
	}
	{
		vm = $1 "." $2 "." $3
		if (!(vm in count))
			order[++vms] = vm
		n = ++count[vm]
		ok = !$7
		directive = ""
		if ($5 == "skipped" || $5 == "known" || $5 == "erratum")
			directive = "SKIP " ($5 == "skipped" ? "" : $5 ": ") $8
		else if ($5 != "passed")
			directive = $5 ": " $8
		if ($5 != "passed")
			gsub(/#/, "", directive)
		body[vm] = body[vm] "    # time_ms=" $6 "\n    " line(ok, n, $4, directive) "\n"
		bad[vm] += !ok
	}
	END {
		print "KTAP version 1\n1.." vms
		for (i = 1; i <= vms; i++) {
			vm = order[i]
			print "    KTAP version 1\n    # Subtest: " vm "\n    1.." count[vm]
			printf "%s", body[vm]
			print line(!bad[vm], i, vm, "")
		}
	}' "$REPORT/results.tsv"
}

# results_json CODE
results_json() {
	jq -Rn --rawfile vms "$REPORT/vms.tsv" --rawfile values "$REPORT/values.tsv" --arg exit "$1" \
		--arg commit "${TESTED:-$STACK_COMMIT}" --arg date "$(date -u +%FT%TZ)" \
		--arg emulator "$(qemu-system-x86_64 --version | head -n 1)" --arg base "$(cat "$BUILD/base-version" 2>/dev/null || true)" '
	def rows: split("\n") | map(select(length > 0) | split("\t"));
	{ commit: $commit, date: $date, base: $base, emulator: $emulator, exit: ($exit | tonumber),
	  vms: ($vms | rows | map({lane: .[0], kernel: .[1], round: .[2], accelerator: .[3], end: .[4], release: .[5], cpus: .[6]})),
	  results: [inputs | split("\t") | {lane: .[0], kernel: .[1], round: .[2], test: .[3], outcome: .[4],
		ms: (.[5] | tonumber), fault: (.[6] == "1"), detail: .[7]}],
	  values: ($values | rows | map({lane: .[0], kernel: .[1], round: .[2], test: .[3], key: .[4], value: .[5]})) }' \
		<"$REPORT/results.tsv" >"$REPORT/results.json"
}

# caption: what it takes to know what a figure is about, but for its lane.
caption() {
	echo "${TESTED:-stack $STACK_COMMIT}, base $(cat "$BUILD/base-version" 2>/dev/null || echo unknown), $(qemu-system-x86_64 --version | head -n 1)"
}

# summary CODE: the report for people, as markdown.
summary() {
	local end='passed' errata

	(($1 == 0)) || end="exit code $1, see ci/run --help"
	errata=$(awk -F'\t' '$5 == "erratum" { sub(/:.*/, "", $4); n[$1, $2, $4] } END { print length(n) }' "$REPORT/results.tsv")
	((errata == 0)) || end+=", errata of the emulator: $errata"
	echo "# Verdict: $end"
	echo
	echo "$(date -u +%F), $(caption)"
	echo
	echo '| lane | kernel | release | accelerator | CPUs | end |'
	echo '|---|---|---|---|---|---|'
	awk -F'\t' '{ printf "| %s | %s (boot %s) | %s | %s | %s | %s |\n", $1, $2, $3, $6, $4, $7, $5 }' "$REPORT/vms.tsv"
	echo
	echo '## Tests'
	echo
	awk -F'\t' '
	{
		if (!($4 in seen)) { seen[$4] = 1; tests[++nt] = $4 }
		if (!($1 in lane)) { lane[$1] = 1; lanes[++nl] = $1 }
		if (!($2 in kern)) { kern[$2] = 1; kerns[++nk] = $2 }
		k = $4 SUBSEP $1 SUBSEP $2
		if (k in cell) {
			cell[k] = cell[k] ", " $5
		} else {
			cell[k] = $5
			ms[k] = $6
		}
		if ($5 != "passed" && $8 != "") note[++nn] = "- " $1 ", " $2 ", " $4 ": " $5 ": " $8
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
				printf " %s |", (key in cell) ? cell[key] sprintf(" (%.1f s)", ms[key] / 1000) : "-"
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
		echo '```'
		cat "$REPORT/ab.txt"
		echo '```'
		for svg in "$REPORT"/*.svg; do
			[[ -f $svg ]] && printf '\n![%s](%s)\n' "$(basename "$svg" .svg)" "$(basename "$svg")"
		done
	fi
	return 0
}

# end_report CODE
end_report() {
	local src=$BUILD/src passed counted

	if [[ -s $REPORT/values.tsv ]] && cut -f2 "$REPORT/values.tsv" | sort -u | paste -sd' ' | grep -qx 'base stack'; then
		"$ROOT/ci/compare" --plots "$REPORT" --caption "$(caption)" "$REPORT/values.tsv" >"$REPORT/ab.txt"
	fi
	ktap >"$REPORT/ktap"
	results_json "$1"
	# kunit.py exits 1 for failed tests, which are told of elsewhere; a missing file is an error.
	[[ -f $src/tools/testing/kunit/kunit.py ]] || src=$BUILD/linux
	python3 "$src/tools/testing/kunit/kunit.py" parse --junit="$REPORT/junit.xml" "$REPORT/ktap" >"$REPORT/kunit.log" 2>&1 || true
	[[ -s $REPORT/junit.xml ]] || die $E_ENV "kunit.py made no junit.xml: $(tail -n 1 "$REPORT/kunit.log")"
	summary "$1" >"$REPORT/summary.md"
	cat "$REPORT/summary.md"
	# What counts is the kernel under test; next to it, the base is the reference.
	counted=$(cut -f2 "$REPORT/results.tsv" | sort -u | paste -sd' ')
	[[ $counted != "base stack" ]] || counted=stack
	passed=$(awk -F'\t' -v kernels=" $counted " '
		!index(kernels, " " $2 " ") { next }
		$7 == 1 { f++; next }
		$5 == "passed" || $5 == "unexpected-pass" { p++; next }
		{ s++ }
		END { printf "%d passed, %d failed, %d skipped\n", p, f, s }' "$REPORT/results.tsv")
	printf '\n%s (kernel: %s; report: %s)\n' "$passed" "$counted" "$REPORT/summary.md"
}
